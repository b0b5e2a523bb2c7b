/** What a process takes at the height of very large pulls: memory above idle, descriptors and threads have one bound. */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type BuiltLayer, layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import type { Measured, Order } from '../support/measured-pulls.js';
import { must } from '../support/programs.js';
import { largeScratch } from '../support/scratch.js';

const PROGRAM = join(__dirname, '..', 'support', 'measured-pulls.ts');
const MIB = 1 << 20;

/** A layer of one file that does not compress. */
function random(name: string, bytes: number): BuiltLayer {
  const content = randomFillSync(Buffer.alloc(bytes));
  return layer({ entries: [{ path: `opt/${name}`, content }], compression: 'none' });
}

async function measured(server: TestRegistry, tags: string[], options: Order['options']): Promise<Measured> {
  const order: Order = {
    references: ['idle:1', ...tags].map((tag) => server.reference(tag)),
    options: { ...options, cache: largeScratch('bounds') },
  };
  const flags = ['--expose-gc', '--import', 'tsx', PROGRAM];
  const text = await must(process.execPath, [...flags, JSON.stringify(order)]);
  return JSON.parse(text.trim().split('\n').at(-1) ?? '') as Measured;
}

function assertBounded({ idle, peak, descriptors, threads }: Measured): void {
  const taken = (peak - idle) / MIB;
  console.log(`# ${taken.toFixed(1)} MiB above idle, ${descriptors} descriptors, ${threads} threads`);
  assert.ok(taken <= 75, `${taken.toFixed(1)} MiB above idle`);
  assert.ok(descriptors < 300, `${descriptors} descriptors`);
  assert.ok(threads < 128, `${threads} threads`);
}

const linux = process.platform === 'linux' ? false : 'what a process takes is read from /proc, which only Linux has';

describe('what pulls take at their height', { skip: linux }, () => {
  it('does not grow with the number of layers: 3,000', async (t) => {
    const layers = Array.from({ length: 3000 }, (_, at) => layer([{ path: `opt/${at}`, content: `${at}` }]));
    const server = await startRegistry({ images: { 'idle:1': { layers: [[]] }, 'many:1': { layers } } });
    t.after(() => server.close());
    const found = await measured(server, ['many:1'], {});
    assert.deepEqual(found.layers, [3000]);
    assertBounded(found);
  });

  it('does not grow with layers that wait for an extraction: 120', async (t) => {
    // The two largest are fetched first, and slowly: they hold both places meanwhile.
    const slow = [random('slow1', 5 * MIB), random('slow2', 5 * MIB)];
    const layers = [...slow, ...Array.from({ length: 118 }, (_, at) => random(`fast${at}`, 2 * MIB))];
    const server = await startRegistry({ images: { 'idle:1': { layers: [[]] }, 'held:1': { layers } } });
    t.after(() => server.close());
    for (const { digest } of slow) server.faults.add({ on: 'blob', digest, do: 'slow', bytesPerSecond: MIB });
    const found = await measured(server, ['held:1'], { concurrency: 8, threads: 2 });
    assert.deepEqual(found.layers, [120]);
    assertBounded(found);
  });

  it('does not grow with the number of pulls: 20 of 20 layers at a time', async (t) => {
    const tags = Array.from({ length: 20 }, (_, at) => `pull${at}:1`);
    const image = (tag: string) => ({
      layers: Array.from({ length: 20 }, (_, at) => random(`${tag}${at}`, MIB / 2)),
    });
    const images = Object.fromEntries(tags.map((tag) => [tag, image(tag)]));
    const server = await startRegistry({ images: { 'idle:1': { layers: [[]] }, ...images } });
    t.after(() => server.close());
    const found = await measured(server, tags, { concurrency: 8 });
    assert.deepEqual(
      found.layers,
      tags.map(() => 20),
    );
    assertBounded(found);
  });
});
