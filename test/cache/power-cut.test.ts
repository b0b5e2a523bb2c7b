/**
 * What a power cut takes: simulated by files cut short and metadata of another boot, and on a disk whose unwritten part is
 * lost.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { type GlobalCache, type PullProgress, Registry } from 'microsandbox-image';
import { layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { mountAsWritten, mountNew } from '../support/mounts.js';
import { requirePrograms, run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const MARK = 'user.microsandbox-image.synced';
const base = layer([
  { path: 'opt', type: 'directory', uid: 7 },
  { path: 'opt/base', content: 'base'.repeat(2000) },
]);
const top = layer([{ path: 'opt/top', content: 'top'.repeat(3000) }]);

interface Pulled {
  server: TestRegistry;
  registry: Registry;
  cache: GlobalCache;
  reference: string;
}

async function pulled(t: TestContext, options: { keepBlobs?: boolean; durable?: boolean } = {}): Promise<Pulled> {
  const server = await startRegistry({ images: { 'app:1': { layers: [base, top] }, 'base:1': { layers: [base] } } });
  t.after(() => server.close());
  const registry = new Registry({ cache: scratch('power') });
  const reference = server.reference('app:1');
  await registry.pull(reference, options);
  server.requests.length = 0;
  return { server, registry, cache: registry.cache, reference };
}

/** The machine was started again: the metadata are of another boot. Rewriting them takes the mark from them, unless kept. */
function restart(cache: GlobalCache, reference: string, { keepMark = false } = {}): void {
  const path = cache.imageMetadataPath(reference);
  const metadata = JSON.parse(readFileSync(path, 'utf8')) as { written?: { boot_id: string } };
  assert.ok(metadata.written !== undefined, 'metadata name the boot');
  metadata.written.boot_id = randomUUID();
  if (!keepMark) rmSync(path);
  writeFileSync(path, JSON.stringify(metadata));
}

function mark(cache: GlobalCache, reference: string): string | null {
  const got = spawnSync('getfattr', ['--only-values', '-n', MARK, cache.imageMetadataPath(reference)]);
  return got.status === 0 ? got.stdout.toString() : null;
}

const blobsFetched = ({ server }: Pulled): string[] =>
  server.requests.map(({ path }) => path).filter((path) => path.includes(base.digest) || path.includes(top.digest));

const content = (registry: Registry, reference: string): string[] =>
  ['opt/base', 'opt/top'].map((path, at) =>
    readFileSync(join(registry.pullCached(reference)?.layers[at] ?? '', path), 'utf8'),
  );

const WHOLE = ['base'.repeat(2000), 'top'.repeat(3000)];

describe('an image of another boot', () => {
  it('that is whole is looked through once, without network, and a hit from then on', async (t) => {
    if (!requirePrograms(t, 'getfattr')) return;
    const all = await pulled(t);
    const { server, registry, cache, reference } = all;
    assert.notEqual(registry.pullCached(reference), null, 'in the same boot nothing is asked');
    assert.equal(mark(cache, reference), null);
    restart(cache, reference);
    assert.equal(registry.pullCached(reference), null);
    assert.equal((await registry.plan(reference, { policy: 'never' })).cached, true);
    const inode = statSync(cache.imageMetadataPath(reference)).ino;
    const events: PullProgress['type'][] = [];
    const pull = registry.pull(reference, { policy: 'never' });
    for await (const event of pull) events.push(event.type);
    assert.deepEqual([(await pull).cached, events], [true, ['resolving', 'resolved', 'complete']]);
    assert.match(mark(cache, reference) ?? '', /^[0-9a-f]{32}$/);
    assert.equal(statSync(cache.imageMetadataPath(reference)).ino, inode, 'nothing was written anew');
    assert.equal(registry.pullCached(reference)?.cached, true);
    assert.equal(server.requests.length, 0);
  });

  it('that was cut short is made again from its blobs, without network and whatever the policy', async (t) => {
    const { server, registry, cache, reference } = await pulled(t);
    const { layers, layerDigests } = registry.pullCached(reference)!;
    truncateSync(join(layers[0]!, 'opt/base'), 0);
    truncateSync(cache.layerIndexPath(layerDigests[1]!), 0);
    restart(cache, reference);
    assert.equal(registry.pullCached(reference), null);
    assert.equal((await registry.pull(reference, { policy: 'never' })).cached, true);
    assert.deepEqual(content(registry, reference), WHOLE);
    assert.equal(server.requests.length, 0);
    const report = await cache.verify({ depth: 'content' });
    assert.deepEqual([report.ok, report.skipped], [true, []]);
    assert.ok(!readdirSync(cache.layersDir).some((name) => name.endsWith('.extracting')));
  });

  it('that was cut short with its blobs is fetched again, only what is damaged', async (t) => {
    const all = await pulled(t);
    const { registry, cache, reference } = all;
    const { layers } = registry.pullCached(reference)!;
    truncateSync(join(layers[1]!, 'opt/top'), 0);
    truncateSync(cache.layerBlobPath(top.digest), 10);
    restart(cache, reference);
    await assert.rejects(registry.pull(reference, { policy: 'never' }), { code: 'ERR_NOT_CACHED' });
    assert.equal((await registry.pull(reference)).cached, false);
    assert.deepEqual(content(registry, reference), WHOLE);
    assert.equal(blobsFetched(all).length, 1);
    assert.ok(blobsFetched(all)[0]?.includes(top.digest));
  });

  it('without blobs is fetched again where it was cut short, and not where it is whole', async (t) => {
    const all = await pulled(t, { keepBlobs: false });
    const { registry, cache, reference } = all;
    restart(cache, reference);
    assert.equal((await registry.pull(reference)).cached, true);
    assert.deepEqual(blobsFetched(all), []);
    rmSync(join(registry.pullCached(reference)!.layers[1]!, 'opt/top'));
    restart(cache, reference);
    assert.equal((await registry.pull(reference, { keepBlobs: false })).cached, false);
    assert.deepEqual(content(registry, reference), WHOLE);
    assert.equal(blobsFetched(all).length, 1);
  });

  it('is a hit at once if it was pulled durably, which a mark says that is there when the pull resolves', async (t) => {
    if (!requirePrograms(t, 'getfattr')) return;
    const { server, registry, cache, reference } = await pulled(t, { durable: true });
    assert.match(mark(cache, reference) ?? '', /^[0-9a-f]{32}$/);
    restart(cache, reference, { keepMark: true });
    assert.equal(registry.pullCached(reference)?.cached, true);
    assert.equal(server.requests.length, 0);
  });

  it('is looked through in spite of its mark if a layer was made anew since', async (t) => {
    if (!requirePrograms(t, 'getfattr')) return;
    const { registry, cache, reference } = await pulled(t, { durable: true });
    // A repair makes the layer anew, and that is what the power cut takes.
    const file = join(cache.layerDir(base.digest), 'opt/base');
    truncateSync(file, 0);
    assert.equal((await cache.verify({ repair: true })).ok, true);
    restart(cache, reference, { keepMark: true });
    truncateSync(file, 0);
    assert.equal(registry.pullCached(reference), null);
    await registry.pull(reference, { policy: 'never' });
    assert.deepEqual(content(registry, reference), WHOLE);
    assert.equal(mark(cache, reference), null, 'what was just made is not synced yet');
  });

  it('becomes durable where a hit is asked for durably', async (t) => {
    if (!requirePrograms(t, 'getfattr')) return;
    const { registry, cache, reference } = await pulled(t);
    assert.equal(mark(cache, reference), null);
    const flags = ['--durable', '--quiet', '--cache-dir', cache.directory];
    const { code, stderr } = await run(process.execPath, [MAIN, 'pull', reference, ...flags]);
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(mark(cache, reference) ?? '', /^[0-9a-f]{32}$/);
    await registry.pull(reference, { durable: true });
  });

  it('is taken as it is where nobody wrote down the boot, as the original does not', async (t) => {
    const { server, registry, cache, reference } = await pulled(t);
    const path = cache.imageMetadataPath(reference);
    const metadata = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    writeFileSync(path, JSON.stringify({ ...metadata, written: undefined }));
    assert.equal(registry.pullCached(reference)?.cached, true);
    assert.equal((await registry.pull(reference, { policy: 'never' })).cached, true);
    assert.equal(server.requests.length, 0);
  });

  it('does not keep its process alive for the sync that is to come', async (t) => {
    const { server, cache } = await pulled(t);
    const started = performance.now();
    const flags = ['--quiet', '--cache-dir', cache.directory];
    const { code } = await run(process.execPath, [MAIN, 'pull', server.reference('base:1'), ...flags], {
      timeout: 20_000,
    });
    assert.equal(code, 0);
    assert.ok(performance.now() - started < 10_000);
  });

  it('is taken as it is in a cache that can not be written', async (t) => {
    const { registry, cache, reference } = await pulled(t);
    restart(cache, reference);
    // The superuser may write whatever the mode says: for it the file system has to be read-only.
    const root = process.getuid?.() === 0;
    const images = join(cache.directory, 'images');
    try {
      if (root) {
        assert.equal(spawnSync('mount', ['--bind', images, images]).status, 0, 'bind mounts are possible');
        assert.equal(spawnSync('mount', ['-o', 'remount,bind,ro', images]).status, 0);
      } else {
        chmodSync(images, 0o500);
      }
      assert.equal(registry.pullCached(reference)?.cached, true);
      assert.equal((await registry.pull(reference, { policy: 'never' })).cached, true);
    } finally {
      if (root) spawnSync('umount', ['-l', images]);
      else chmodSync(images, 0o700);
    }
  });
});

describe('a disk that loses what was not written', () => {
  const files = Array.from({ length: 300 }, (_, at) => ({
    path: `d${at % 7}/f${at}`,
    content: `${at}\n`.repeat(2000),
  }));

  async function lost(t: TestContext, durable: boolean): Promise<{ server: TestRegistry; after: Registry } | null> {
    const server = await startRegistry({ images: { 'app:1': { layers: [files] } } });
    t.after(() => server.close());
    const mounted = mountNew(t, 64 * 2 ** 20);
    if (mounted === null) return null;
    const before = new Registry({ cache: join(mounted.directory, 'cache') });
    await before.pull(server.reference('app:1'), { durable });
    // That the metadata reach the disk, and with them all names, is the worst that can happen.
    for (const path of [
      before.cache.imageMetadataPath(server.reference('app:1')),
      join(before.cache.directory, 'images'),
    ]) {
      const file = openSync(path, 'r');
      fsyncSync(file);
      closeSync(file);
    }
    const copy = mountAsWritten(t, mounted);
    assert.ok(copy !== null);
    const after = new Registry({ cache: join(copy.directory, 'cache') });
    restart(after.cache, server.reference('app:1'), { keepMark: true });
    return { server, after };
  }

  it('has its image healed at the first use', async (t) => {
    // The kernel may write early, where others write much: then nothing is lost, and there is nothing to see.
    for (let attempt = 0; attempt < 3; attempt++) {
      const made = await lost(t, false);
      if (made === null) return;
      const { server, after } = made;
      const reference = server.reference('app:1');
      if ((await after.cache.verify()).ok) continue;
      assert.equal(after.pullCached(reference), null);
      await after.pull(reference);
      assert.notEqual(after.pullCached(reference), null);
      const report = await after.cache.verify({ depth: 'content' });
      assert.deepEqual([report.ok, report.skipped], [true, []]);
      return;
    }
    t.skip('the kernel wrote everything before the power could be cut, three times');
  });

  it('loses nothing of an image that was pulled durably', async (t) => {
    if (!requirePrograms(t, 'getfattr')) return;
    const made = await lost(t, true);
    if (made === null) return;
    const { server, after } = made;
    server.requests.length = 0;
    assert.notEqual(after.pullCached(server.reference('app:1')), null);
    const report = await after.cache.verify({ depth: 'content' });
    assert.deepEqual([report.ok, report.skipped, server.requests.length], [true, [], 0]);
  });
});
