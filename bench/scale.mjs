// node bench/scale.mjs [--large] [--scratch DIR]: whether costs stay flat from small images to large ones, what forty small layers
// cost beside one, and what a slow link costs beside the bare download. --large goes to 10 GB and 1,000,000 entries; DIR
// (default: the system's temporary directory) must have room for it.
import { Buffer } from 'node:buffer';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createGzip } from 'node:zlib';
import { layer, startRegistry, tar } from 'microsandbox-image/testing';

const { values } = parseArgs({
  options: { large: { type: 'boolean', default: false }, scratch: { type: 'string', default: tmpdir() } },
});
const MEGABYTE = 1e6;
/** Most bytes in one file: the size of a larger one has no room in a plain header. */
const FILE = 1e9;

console.log('One layer of bytes (gzip, files of at most 1 GB)\n');
row('MB', 'seconds', 'ms per MB', 'processor s per GB', 'peak MiB');
for (const megabytes of [1, 10, 100, 1000, ...(values.large ? [10_000] : [])]) {
  const { wall, cpu, memory } = await pulled({ layers: [await bytesLayer(megabytes * MEGABYTE)] });
  row(
    megabytes,
    wall.toFixed(3),
    ((wall * 1000) / megabytes).toFixed(2),
    ((cpu * 1000) / megabytes).toFixed(2),
    mib(memory),
  );
}

console.log('\nOne layer of files of 100 bytes, 50 in a directory\n');
row('entries', 'seconds', 'µs per entry', 'processor µs', 'peak MiB');
for (const entries of [10, 1000, 100_000, ...(values.large ? [1_000_000] : [])]) {
  const { wall, cpu, memory } = await pulled({ layers: [entriesLayer(entries)] });
  row(entries, wall.toFixed(3), ((wall * 1e6) / entries).toFixed(1), ((cpu * 1e6) / entries).toFixed(1), mib(memory));
}

console.log('\nForty files\n');
row('layers', 'ms', 'ms a layer more');
const files = Array.from({ length: 40 }, (_, at) => ({ path: `file-${at}`, content: `file ${at}` }));
const one = await median(5, () => pulled({ layers: [files] }));
const forty = await median(5, () => pulled({ layers: files.map((file) => [file]) }));
row(1, (one * 1000).toFixed(1), '');
row(40, (forty * 1000).toFixed(1), (((forty - one) * 1000) / 39).toFixed(2));

console.log('\nA layer of 24 MB of which half is left by gzip, over one connection of 4 MB a second\n');
row('', 'seconds', 'as the download');
const blob = halfCompressed(24 * MEGABYTE);
const slow = { layers: [blob], faults: [{ on: 'blob', do: 'slow', bytesPerSecond: 4 * MEGABYTE }] };
const download = await median(3, () => downloaded(slow));
const pull = await median(3, () => pulled({ ...slow, concurrency: 1 }));
row('download', download.toFixed(3), '1.00');
row('pull', pull.toFixed(3), (pull / download).toFixed(2));

console.log('\nA layer of 64 MB over connections of 8 MB a second each\n');
row('', 'seconds', 'as the download');
const large = layer({ entries: [{ path: 'file', content: noise(64 * MEGABYTE, 256) }], compression: 'none' });
const each = { layers: [large], faults: [{ on: 'blob', do: 'slow', bytesPerSecond: 8 * MEGABYTE }] };
const over1 = await median(3, () => downloaded(each));
row('download over one', over1.toFixed(3), '1.00');
for (const concurrency of [1, 3, 6]) {
  const over = await median(3, () => pulled({ ...each, concurrency }));
  row(`pull, concurrency ${concurrency}`, over.toFixed(3), (over / over1).toFixed(2));
}

/** Serves one image and pulls it into a fresh cache, in a process of its own. */
async function pulled({ layers, faults, concurrency }) {
  return withImage({ layers, faults }, async (server) => {
    const cache = mkdtempSync(join(values.scratch, 'bench-scale-'));
    try {
      return await ours(server.reference('scale:1'), cache, concurrency);
    } finally {
      rmSync(cache, { recursive: true });
    }
  });
}

/** The bare download of the first layer by Node's own client. */
async function downloaded({ layers, faults }) {
  return withImage({ layers, faults }, async (server) => {
    const started = process.hrtime.bigint();
    const { digest } = layer(layers[0]);
    const url = `http://${server.host}/v2/scale/blobs/${digest}`;
    const response = await new Promise((resolve, reject) => get(url, resolve).on('error', reject));
    let length = 0;
    for await (const chunk of response) length += chunk.length;
    if (length !== layer(layers[0]).size) throw new Error(`${length} bytes came`);
    return { wall: Number(process.hrtime.bigint() - started) / 1e9 };
  });
}

async function withImage({ layers, faults = [] }, work) {
  const server = await startRegistry({ images: { 'scale:1': { layers } } });
  for (const fault of faults) server.faults.add(fault);
  try {
    return await work(server);
  } finally {
    await server.close();
  }
}

async function ours(reference, cache, concurrency) {
  const program = join(import.meta.dirname, 'arms', 'ours.cjs');
  const child = spawn(process.execPath, [
    program,
    reference,
    cache,
    '',
    JSON.stringify({ concurrency, limits: { entries: null } }),
  ]);
  let output = '';
  child.stdout.on('data', (data) => (output += data));
  child.stderr.on('data', (data) => process.stderr.write(data));
  const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve));
  if (code !== 0) throw new Error(`the pull ended with ${code}`);
  return JSON.parse(output);
}

/** Files of pseudo-random words, packed as they are made: the archive may be larger than memory. */
async function bytesLayer(total) {
  // So few values that a blob of the largest archive fits into one Buffer of Node 20.
  const words = noise(MEGABYTE, 3);
  const gzip = createGzip({ level: 1 });
  const [hash, parts] = [createHash('sha256'), []];
  gzip.on('data', (part) => parts.push(part));
  const ended = new Promise((resolve, reject) => gzip.on('end', resolve).on('error', reject));
  const write = async (bytes) => {
    hash.update(bytes);
    if (!gzip.write(bytes)) await new Promise((resolve) => gzip.once('drain', resolve));
  };
  for (let start = 0; start < total; start += FILE) {
    const size = Math.min(FILE, total - start);
    await write(header(`file-${start / FILE}`, size));
    for (let at = 0; at < size; at += words.length) await write(words.subarray(0, Math.min(words.length, size - at)));
    await write(Buffer.alloc((512 - (size % 512)) % 512));
  }
  await write(Buffer.alloc(1024));
  gzip.end();
  await ended;
  return layer({ blob: Buffer.concat(parts), diffId: `sha256:${hash.digest('hex')}` });
}

/** The header of a file, taken from an archive of an empty one: only its length and sum differ. */
function header(path, size) {
  const block = Buffer.from(tar([{ path, content: '' }]).subarray(0, 512));
  block.write(`${size.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  block.fill(' ', 148, 156);
  const sum = block.reduce((all, byte) => all + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

function entriesLayer(count) {
  const content = noise(100, 12);
  return Array.from({ length: count }, (_, at) => ({ path: `directory-${Math.floor(at / 50)}/file-${at}`, content }));
}

function halfCompressed(length) {
  return layer({ entries: [{ path: 'file', content: noise(length, 128) }], compression: 'gzip', level: 1 });
}

/** Bytes of so many values: fewer values leave less after compression. The same every time. */
function noise(length, values) {
  const bytes = Buffer.alloc(length);
  let state = 1;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = 97 + ((state >>> 16) % values);
  }
  return bytes;
}

async function median(rounds, work) {
  const times = [];
  for (let round = 0; round < rounds; round++) times.push((await work()).wall);
  return times.sort((a, b) => a - b)[Math.floor(rounds / 2)];
}

function mib(bytes) {
  return (bytes / 2 ** 20).toFixed(0);
}

function row(...cells) {
  console.log(cells.map((cell) => String(cell).padStart(20)).join(''));
}
