/** `keepBlobs: false`: trees without their blobs. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { Registry } from 'microsandbox-image';
import { layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const shared = layer([{ path: 'shared', content: 's'.repeat(5000) }]);
const top = layer([{ path: 'etc/motd', content: 'hello' }]);

async function serve(t: TestContext): Promise<{ server: TestRegistry; registry: Registry; reference: string }> {
  const server = await startRegistry({
    images: { 'app:1': { layers: [shared, top] }, 'base:1': { layers: [shared] } },
  });
  t.after(() => server.close());
  return { server, registry: new Registry({ cache: scratch('blobs') }), reference: server.reference('app:1') };
}

const blobs = (registry: Registry): string[] =>
  readdirSync(registry.cache.layersDir).filter((name) => name.includes('.tar.gz'));

const fetched = (server: TestRegistry, digest: string): number =>
  server.requests.filter(({ path }) => path.includes(digest)).length;

describe('a pull that keeps no blobs', () => {
  it('leaves trees and indexes, and the image is a hit', async (t) => {
    const { server, registry, reference } = await serve(t);
    const result = await registry.pull(reference, { keepBlobs: false });
    assert.deepEqual(blobs(registry), []);
    assert.equal(readFileSync(join(result.layers[1] ?? '', 'etc/motd'), 'utf8'), 'hello');
    assert.ok(result.layerDigests.every((digest) => existsSync(registry.cache.layerIndexPath(digest))));
    assert.equal(registry.pullCached(reference)?.cached, true);
    assert.equal((await registry.pull(reference, { policy: 'always' })).cached, true);
    assert.deepEqual([fetched(server, shared.digest), fetched(server, top.digest)], [1, 1]);
    const report = await registry.cache.verify({ depth: 'content' });
    assert.deepEqual([report.ok, report.skipped.map(({ reason }) => reason)], [true, ['no-blob', 'no-blob']]);
  });

  it('leaves the blobs of layers that were there before', async (t) => {
    const { server, registry, reference } = await serve(t);
    await registry.pull(server.reference('base:1'));
    await registry.pull(reference, { keepBlobs: false });
    assert.deepEqual(blobs(registry), [`${shared.digest.replace(':', '_')}.tar.gz`]);
  });

  it('has a damaged layer downloaded again, by a pull or after a repair, and no other', async (t) => {
    const { server, registry, reference } = await serve(t);
    const { layers } = await registry.pull(reference, { keepBlobs: false });
    const file = join(layers[1] ?? '', 'etc/motd');
    truncateSync(file, 1);
    await registry.pull(reference, { policy: 'always', keepBlobs: false });
    assert.equal(readFileSync(file, 'utf8'), 'hello');
    assert.deepEqual([fetched(server, shared.digest), fetched(server, top.digest)], [1, 2]);

    truncateSync(file, 1);
    const report = await registry.cache.verify({ repair: true });
    assert.deepEqual([report.ok, report.problems[0]?.repaired], [true, 'deleted']);
    assert.equal(registry.pullCached(reference), null);
    await registry.pull(reference, { keepBlobs: false });
    assert.equal(readFileSync(file, 'utf8'), 'hello');
    assert.deepEqual([fetched(server, shared.digest), fetched(server, top.digest)], [1, 3]);
    assert.deepEqual(blobs(registry), []);
  });

  it('is a flag of the command line', async (t) => {
    const { registry, reference } = await serve(t);
    const flags = ['--no-keep-blobs', '--quiet', '--cache-dir', registry.cache.directory];
    const { code, stderr } = await run(process.execPath, [MAIN, 'pull', reference, ...flags]);
    assert.deepEqual([code, stderr, blobs(registry)], [0, '', []]);
    assert.notEqual(registry.pullCached(reference), null);
  });
});
