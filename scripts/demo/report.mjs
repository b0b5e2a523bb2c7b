// Prints what a pull brought. Reads the layers through their indexes, as a program that mounts them would.
import { statSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { LayerIndex } from 'microsandbox-image';
import progress from '../../dist/cli/progress.js';

const { size } = progress;

const TYPE_LETTERS = {
  0o010000: 'p',
  0o020000: 'c',
  0o040000: 'd',
  0o060000: 'b',
  0o100000: '-',
  0o120000: 'l',
  0o140000: 's',
};
const LISTED = 12;
const ROUNDS = 200;

export function showResult(registry, result, took) {
  const { platform, config } = result;
  const bytes = result.layerDigests.map((digest) => statSync(registry.cache.layerBlobPath(digest)).size);
  const total = bytes.reduce((sum, each) => sum + each, 0);
  const rate = `${(total / 1e6 / (took / 1e3)).toFixed(0)} MB/s`;
  console.log(`reference  ${result.reference}`);
  console.log(`platform   ${[platform.os, platform.architecture, platform.variant].filter(Boolean).join('/')}`);
  console.log(`manifest   ${result.manifestDigest}`);
  console.log(`runs       ${[...(config.entrypoint ?? []), ...(config.cmd ?? [])].join(' ') || '(nothing by itself)'}`);
  for (const [at, digest] of result.layerDigests.entries()) {
    console.log(
      `layer ${at + 1}    ${digest.slice(0, 19)}…  ${size(bytes[at])}, ${countEntries(registry, digest)} entries`,
    );
  }
  console.log(`time       ${took.toFixed(0)} ms to download, verify, extract and index (${rate} of packed bytes)`);
}

/** The root and one directory below it, merged from the top layer down. */
export function showTree(registry, result) {
  const layers = [...result.layerDigests].reverse().flatMap((digest) => {
    const index = openIndex(registry, digest);
    return index ? [index] : [];
  });
  const top = merged(layers, '');
  const shown = top.slice(0, LISTED);
  for (const entry of shown) {
    console.log(line(entry, entry.name));
    if (!entry.isDirectory) continue;
    for (const child of merged(layers, entry.name).slice(0, 4)) console.log(line(child, `${entry.name}/${child.name}`));
  }
  if (top.length > shown.length) console.log(`… and ${top.length - shown.length} more`);
  for (const layer of layers) layer.close();
}

export async function cachedTime(registry, reference) {
  const { cached } = await registry.pull(reference);
  if (!cached) throw new Error(`${reference} should have come from the cache`);
  const sync = await median(() => registry.pullCached(reference));
  const async = await median(() => registry.pull(reference));
  console.log(`pullCached ${sync} µs, pull ${async} µs (median of ${ROUNDS})`);
}

/** What the layers show at a path: upper ones win, whiteouts hide, an opaque directory ends the search. */
function merged(layers, path) {
  const seen = new Map();
  for (const layer of layers) {
    const directory = layer.directory(path);
    for (const entry of directory?.entries ?? []) if (!seen.has(entry.name)) seen.set(entry.name, entry);
    if (directory?.opaque) break;
  }
  return [...seen.values()].filter((entry) => !entry.whiteout).sort((a, b) => (a.name < b.name ? -1 : 1));
}

function countEntries(registry, digest) {
  const index = openIndex(registry, digest);
  if (!index) return 'unindexed';
  let count = 0;
  const paths = [''];
  for (let path; (path = paths.pop()) !== undefined;) {
    for (const entry of index.directory(path)?.entries ?? []) {
      count++;
      if (entry.isDirectory) paths.push(path === '' ? entry.name : `${path}/${entry.name}`);
    }
  }
  index.close();
  return count;
}

/** An index is an optimisation: a layer may be without one. */
function openIndex(registry, digest) {
  try {
    return LayerIndex.open(registry.cache.layerIndexPath(digest));
  } catch {
    return null;
  }
}

function line(entry, name) {
  const bits = [8, 7, 6, 5, 4, 3, 2, 1, 0].map((bit) => ((entry.mode >> bit) & 1 ? 'rwx'[(8 - bit) % 3] : '-'));
  if (entry.mode & 0o4000) bits[2] = 's';
  const mode = (TYPE_LETTERS[entry.mode & 0o170000] ?? '?') + bits.join('');
  return `${mode} ${String(entry.uid).padStart(5)}:${String(entry.gid).padEnd(5)} ${String(entry.size).padStart(9)}  ${name}`;
}

async function median(work) {
  const times = [];
  for (let round = 0; round < ROUNDS; round++) {
    const began = performance.now();
    await work();
    times.push(performance.now() - began);
  }
  return (times.sort((a, b) => a - b)[ROUNDS >> 1] * 1000).toFixed(0);
}
