/** A large layer over connections that are slower than their link: several fetch parts of it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { RegistryOptions } from 'microsandbox-image';
import { type Fault, startRegistry } from 'microsandbox-image/testing';
import { client, noise } from './serving.js';

const CONTENT = noise(40_000_000);
const BYTES_PER_SECOND = 12_000_000;
/** Longest time over one connection. */
const ALONE = (CONTENT.length / BYTES_PER_SECOND) * 1000;
const SLOW: Fault = { on: 'blob', do: 'slow', bytesPerSecond: BYTES_PER_SECOND };
/** A Range with an end. */
const PART = /^bytes=\d+-\d+$/;

/** Pulls one layer, checks it, and answers with the ranges that were asked for and the milliseconds it took. */
async function pulled(
  t: TestContext,
  faults: Fault[],
  options: RegistryOptions = {},
): Promise<{ ranges: string[]; took: number }> {
  const layer = { entries: [{ path: 'data', content: CONTENT }], compression: 'none' as const };
  const server = await startRegistry({ images: { 'app:1': { layers: [layer] } }, faults });
  t.after(() => server.close());
  const started = performance.now();
  const { layers } = await client('plain HTTP', options).pull(server.reference('app:1'));
  const took = performance.now() - started;
  assert.ok(readFileSync(join(layers[0] ?? '', 'data')).equals(CONTENT), 'the file differs');
  return { ranges: server.requests.flatMap(({ range }) => range ?? []), took };
}

// One after the other: all pulls of a process share its memory for parts, and further connections are for what nobody else needs.
describe('a layer over slow connections', () => {
  it('is fetched in parts by those that nobody needs', async (t) => {
    const { ranges, took } = await pulled(t, [SLOW]);
    assert.ok(ranges.filter((range) => PART.test(range)).length >= 2, ranges.join(', '));
    assert.ok(took < ALONE * 0.9, `${took.toFixed(0)} ms, over one connection ${ALONE.toFixed(0)} ms`);
  });

  it('is fetched over one where concurrency allows no more', async (t) => {
    const { ranges } = await pulled(t, [SLOW], { concurrency: 1 });
    assert.deepEqual(ranges, []);
  });

  it('is fetched anew, over one, from a server that sends other bytes than those of a part', async (t) => {
    const { ranges } = await pulled(t, [{ on: 'blob', range: PART, do: 'range', how: 'wrong-bytes' }, SLOW]);
    assert.ok(
      ranges.some((range) => PART.test(range)),
      ranges.join(', '),
    );
  });
});
