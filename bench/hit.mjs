// node bench/hit.mjs [--layers N]: what an image costs that is in the cache already, in microseconds: pullCached, which is
// synchronous, and pull, which is a promise.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Registry } from 'microsandbox-image';
import { startRegistry } from 'microsandbox-image/testing';

const { values } = parseArgs({ options: { layers: { type: 'string', default: '5' } } });
const count = Number(values.layers);
const layers = Array.from({ length: count }, (_, at) => [{ path: `file-${at}`, content: `layer ${at}` }]);
const server = await startRegistry({ images: { 'hit:1': { layers } } });
const cache = mkdtempSync(join(tmpdir(), 'bench-hit-'));
try {
  const registry = new Registry({ cache });
  const reference = server.reference('hit:1');
  await registry.pull(reference);
  console.log(`an image of ${count} layers that is in the cache, microseconds:`);
  print('pullCached', await time(20_000, () => registry.pullCached(reference)));
  print('pull', await time(5_000, () => registry.pull(reference)));
} finally {
  await server.close();
  rmSync(cache, { recursive: true });
}

/** Microseconds of each call, sorted. The first tenth is warm-up. */
async function time(calls, call) {
  const times = [];
  for (let at = 0; at < calls * 1.1; at++) {
    const started = process.hrtime.bigint();
    await call();
    if (at >= calls * 0.1) times.push(Number(process.hrtime.bigint() - started) / 1000);
  }
  return times.sort((a, b) => a - b);
}

function print(name, times) {
  const at = (part) => times[Math.min(times.length - 1, Math.floor(times.length * part))].toFixed(1).padStart(8);
  console.log(`${name.padEnd(12)} median ${at(0.5)}   99 of 100 under ${at(0.99)}   fastest ${at(0)}`);
}
