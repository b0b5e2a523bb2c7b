/** Large directories of an index, read without holding the event loop up. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { type IndexEntry, LayerIndex, Registry } from 'microsandbox-image';
import { startRegistry, type TarEntry } from 'microsandbox-image/testing';
import { largeScratch } from './support/scratch.js';

const COUNT = 60_000;
const cache = largeScratch('layer-index');
let path: string;

before(async () => {
  const entries: TarEntry[] = [];
  for (let at = 0; at < COUNT; at++) entries.push({ path: `many/${at}`, content: '' });
  entries.push({ path: 'few/one', content: '1' }, { path: 'few/.wh.gone', content: '' });
  const server = await startRegistry({ images: { 'app:1': { layers: [entries] } } });
  const registry = new Registry({ cache });
  const { layerDigests } = await registry.pull(server.reference('app:1'));
  await server.close();
  path = registry.cache.layerIndexPath(layerDigests[0] ?? '');
});

/** The longest time, in milliseconds, for which no timer came while something was done. */
async function longestPause(work: () => Promise<void>): Promise<number> {
  let [longest, last] = [0, performance.now()];
  const tick = (): void => {
    const now = performance.now();
    [longest, last] = [Math.max(longest, now - last), now];
  };
  const timer = setInterval(tick, 1);
  await work();
  tick();
  clearInterval(timer);
  return longest;
}

describe('the entries of a directory', () => {
  it('are those of directory(), in its order', async () => {
    const index = LayerIndex.open(path);
    for (const at of ['few', 'many', '/many/', '']) {
      const entries: IndexEntry[] = [];
      for await (const entry of index.entries(at)) entries.push(entry);
      assert.deepEqual(entries, index.directory(at)?.entries, at);
    }
    assert.equal((await index.entries('nowhere').next()).done, true);
    assert.throws(() => index.entries(7 as unknown as string), TypeError);
    index.close();
  });

  it('come in pieces, and other work goes on in between', async () => {
    const index = LayerIndex.open(path);
    const read = async (): Promise<void> => {
      let count = 0;
      for await (const entry of index.entries('many')) count += entry.name === '' ? 0 : 1;
      assert.equal(count, COUNT);
    };
    // Another program may take the processor; it does not do so every time. On a busy machine all at once takes longer, too.
    const pauses: string[] = [];
    let found = false;
    for (let tries = 0; tries < 5 && !found; tries++) {
      const since = performance.now();
      assert.equal(index.directory('many')?.entries.length, COUNT);
      const atOnce = performance.now() - since;
      const pause = await longestPause(read);
      found = pause < Math.max(50, atOnce / 4);
      pauses.push(`${pause} ms, all at once ${atOnce} ms`);
    }
    assert.ok(found, pauses.join('; '));
    index.close();
  });

  it('may be left early, and the index be closed then or meanwhile', async () => {
    const index = LayerIndex.open(path);
    for await (const { name } of index.entries('many')) {
      assert.equal(name, '0');
      break;
    }
    const entries = index.entries('many');
    await entries.next();
    index.close();
    await assert.rejects(
      async () => {
        for await (const entry of entries) assert.ok(entry);
      },
      { code: 'ERR_INDEX' },
    );
  });
});
