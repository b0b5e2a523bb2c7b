/** What a whole pull makes of layers: which lower layer counts, which bytes, which digest. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ImageError, LayerIndex, type PullResult, readStat, Registry } from 'microsandbox-image';
import { layer, startRegistry, type TarEntry } from 'microsandbox-image/testing';
import { scratch } from './support/scratch.js';

const directory = (uid: number): TarEntry[] => [{ path: 'opt', type: 'directory', mode: 0o700, uid }];
/** `opt` is described by no entry of it. */
const SHARED: TarEntry[] = [{ path: 'opt/tool', content: 'x' }];

describe('a directory that no entry of its layer describes', () => {
  const orders = [
    ['seven:1', 'nine:1', 'alone:1'],
    ['alone:1', 'nine:1', 'seven:1'],
    ['nine:1', 'alone:1', 'seven:1', 'nine:1'],
  ];
  for (const order of orders) {
    it(`takes what the nearest lower layer of the image says, also after ${order.slice(0, -1).join(', ')}`, async (t) => {
      const server = await startRegistry({
        images: {
          'seven:1': { layers: [directory(7), SHARED] },
          // The nearest layer counts, not the lowest.
          'nine:1': { layers: [directory(7), directory(9), SHARED] },
          'alone:1': { layers: [SHARED] },
        },
      });
      t.after(() => server.close());
      const registry = new Registry({ cache: scratch('orders') });
      const pulled: [string, PullResult][] = [];
      for (const name of order) {
        pulled.push([name, await registry.pull(server.reference(name), { policy: 'always' })]);
        // Those that were pulled before are as they were.
        for (const [name, { layers, indexes }] of pulled) {
          const uid = { 'seven:1': 7, 'nine:1': 9 }[name] ?? 0;
          const mode = uid === 0 ? 0o040755 : 0o040700;
          assert.deepEqual(readStat(join(layers.at(-1) ?? '', 'opt')), { uid, gid: 0, mode, rdev: 0 }, name);
          const entry = LayerIndex.open(indexes.at(-1) ?? '').lookup('opt');
          assert.deepEqual([entry?.uid, entry?.mode], [uid, mode], name);
        }
      }
    });
  }
});

describe('a layer with a wrong label', () => {
  const entries: TarEntry[] = [{ path: 'a', content: 'text' }];
  for (const compression of ['none', 'gzip'] as const) {
    for (const suffix of ['', '+gzip', '+zstd']) {
      it(`of tar${suffix} is read as what its bytes are: ${compression}`, async (t) => {
        const mediaType = `application/vnd.oci.image.layer.v1.tar${suffix}`;
        const server = await startRegistry({
          images: { 'app:1': { layers: [layer({ entries, compression, mediaType })] } },
        });
        t.after(() => server.close());
        const { layers } = await new Registry({ cache: scratch('labels') }).pull(server.reference('app:1'));
        assert.equal(readFileSync(join(layers[0] ?? '', 'a'), 'utf8'), 'text');
      });
    }
  }
});

describe('a layer whose uncompressed bytes have another digest than the config says', () => {
  it('is refused by name, and nothing of it has a final name', async (t) => {
    const layers = [[{ path: 'a', content: 'a' }], [{ path: 'b', content: 'b' }]];
    const [first, second] = layers.map((entries) => layer({ entries }));
    const wrong = `sha256:${'0'.repeat(64)}`;
    const configFields = { rootfs: { type: 'layers', diff_ids: [first?.diffId, wrong] } };
    const server = await startRegistry({ images: { 'app:1': { layers, configFields } } });
    t.after(() => server.close());
    const cache = scratch('diff-id');
    const error = await new Registry({ cache }).pull(server.reference('app:1')).catch((reason: unknown) => reason);
    assert.ok(error instanceof ImageError, String(error));
    assert.equal(error.code, 'ERR_DIGEST_MISMATCH');
    assert.ok(error.message.includes('diff_id') && error.message.includes(wrong), error.message);
    assert.equal(error.layer, second?.digest);
    assert.ok(
      !existsSync(join(cache, 'images')) || readdirSync(join(cache, 'images')).every((n) => !n.endsWith('.json')),
    );
    const name = second?.digest.replace(':', '_') ?? '';
    for (const suffix of ['extracted', 'index'])
      assert.ok(!existsSync(join(cache, 'layers', `${name}.${suffix}`)), suffix);
  });
});
