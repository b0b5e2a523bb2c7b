// node bench/processor.mjs [--max RATIO]: processor seconds of a pull per GB of archive, and how many times that is of what
// Node's own zlib and SHA-256 take for the same bytes in the same minute. The ratio hardly depends on the machine or its load, so
// CI can watch it: with --max it fails where the ratio is higher.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { gunzipSync, gzipSync } from 'node:zlib';
import { startRegistry, tar } from 'microsandbox-image/testing';

const { values } = parseArgs({ options: { max: { type: 'string' }, rounds: { type: 'string', default: '5' } } });
const rounds = Number(values.rounds);
const entries = Array.from({ length: 64 }, (_, at) => ({ path: `file-${at}`, content: text(at, 4 * 2 ** 20) }));
const archive = tar(entries);
const blob = gzipSync(archive, { level: 6 });
const server = await startRegistry({ images: { 'large:1': { layers: [entries] } } });
const work = mkdtempSync(join(tmpdir(), 'bench-processor-'));
try {
  const [loops, pulls] = [[], []];
  for (let round = 0; round < rounds; round++) {
    loops.push(calibrate());
    pulls.push(await pull(server.reference('large:1'), join(work, String(round))));
  }
  const [loop, ours] = [median(loops), median(pulls)];
  const gigabytes = archive.length / 1e9;
  console.log(
    `calibration ${(loop / gigabytes).toFixed(2)} s per GB of archive, a pull ${(ours / gigabytes).toFixed(2)} s per GB`,
  );
  console.log(`ratio ${(ours / loop).toFixed(2)}`);
  if (values.max !== undefined && ours / loop > Number(values.max)) {
    console.log(`FAILED: more than ${values.max}`);
    process.exitCode = 1;
  }
} finally {
  await server.close();
  rmSync(work, { recursive: true });
}

/** Words in an order that no compressor foresees, the same every time. */
function text(seed, length) {
  const words = 'layer image digest blob tree index cache pull entry whiteout mode owner link archive block ring'.split(
    ' ',
  );
  let [state, out] = [seed * 2654435761 + 1, ''];
  while (out.length < length) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out += `${words[state >>> 28]} ${(state >>> 12) & 255} `;
  }
  return out.slice(0, length);
}

/** Processor seconds to inflate and hash the image once, by Node's own means. */
function calibrate() {
  const before = process.cpuUsage();
  createHash('sha256').update(blob).digest();
  createHash('sha256').update(gunzipSync(blob)).digest();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

async function pull(reference, cache) {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'arms', 'plain.cjs'), reference, cache]);
  let output = '';
  child.stdout.on('data', (data) => (output += data));
  child.stderr.on('data', (data) => process.stderr.write(data));
  const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve));
  if (code !== 0) throw new Error(`the pull ended with ${code}`);
  return Number(output);
}

function median(times) {
  return [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];
}
