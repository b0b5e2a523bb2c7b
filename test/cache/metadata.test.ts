/** Metadata that programs read and write: what a pull answers stands in them, trees of a layer's own included. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { type CachedImageMetadata, type PullResult, Registry } from 'microsandbox-image';
import { layer, startRegistry } from 'microsandbox-image/testing';
import { scratch } from '../support/scratch.js';

const base = (uid: number) =>
  layer([
    { path: 'opt', type: 'directory', uid },
    { path: 'opt/base', content: String(uid) },
  ]);
const top = layer([{ path: 'opt/top', content: 'top' }]);

/** Two images over one upper layer, which has a tree of its own for the second. */
async function pulled(t: TestContext): Promise<{ registry: Registry; second: PullResult }> {
  const images = { 'one:1': { layers: [base(1), top] }, 'two:1': { layers: [base(2), top] } };
  const server = await startRegistry({ images });
  t.after(() => server.close());
  const registry = new Registry({ cache: scratch('metadata') });
  await registry.pull(server.reference('one:1'));
  return { registry, second: await registry.pull(server.reference('two:1')) };
}

describe('metadata', () => {
  it('are written as they were read, with the tree that an image has of each layer', async (t) => {
    const { registry, second } = await pulled(t);
    const { cache } = registry;
    const read = cache.readImageMetadata(second.reference) ?? assert.fail();
    assert.deepEqual(
      read.layers.map(({ inherited }) => inherited?.length),
      [undefined, 32],
    );
    assert.notEqual(second.layers[1], cache.layerDir(top.digest));
    rmSync(cache.imageMetadataPath(second.reference));
    assert.equal(registry.pullCached(second.reference), null);
    await cache.writeImageMetadata(second.reference, read);
    assert.deepEqual(cache.readImageMetadata(second.reference), read);
    const hit = registry.pullCached(second.reference);
    assert.deepEqual([hit?.layers, hit?.indexes], [second.layers, second.indexes]);
  });

  it('say which tree has no index', async (t) => {
    const { registry, second } = await pulled(t);
    const { cache } = registry;
    const read = cache.readImageMetadata(second.reference) ?? assert.fail();
    const without: CachedImageMetadata = {
      ...read,
      layers: read.layers.map((layer, at) => (at === 1 ? { ...layer, noIndex: true } : layer)),
    };
    await cache.writeImageMetadata(second.reference, without);
    assert.deepEqual(cache.readImageMetadata(second.reference), without);
    assert.deepEqual(registry.pullCached(second.reference)?.indexes, [second.indexes[0], null]);
  });

  it('name no tree by what could lead out of the cache', async (t) => {
    const { registry, second } = await pulled(t);
    const { cache } = registry;
    const read = cache.readImageMetadata(second.reference) ?? assert.fail();
    for (const inherited of ['../../elsewhere', '', 'A'.repeat(32)]) {
      const layers = read.layers.map((layer) => ({ ...layer, inherited }));
      await assert.rejects(cache.writeImageMetadata(second.reference, { ...read, layers }), {
        code: 'ERR_INVALID_OPTION',
      });
    }
    assert.deepEqual(registry.pullCached(second.reference)?.layers, second.layers);
  });
});
