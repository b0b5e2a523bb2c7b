/** What is in a cache, what goes, and what is mended, through the addon. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { GlobalCache, Registry } from 'microsandbox-image';
import { layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { scratch } from '../support/scratch.js';

const HOUR = 3_600_000;
const shared = layer([{ path: 'shared', content: 's'.repeat(50_000) }]);

async function filled(t: TestContext): Promise<{ server: TestRegistry; registry: Registry; cache: GlobalCache }> {
  const server = await startRegistry({
    images: {
      'a:1': { layers: [shared, [{ path: 'etc/a', content: 'a'.repeat(20_000) }]] },
      'b:1': { layers: [shared, [{ path: 'etc/b', content: 'b'.repeat(30_000) }]] },
    },
  });
  t.after(() => server.close());
  const registry = new Registry({ cache: scratch('room') });
  for (const name of ['a:1', 'b:1']) await registry.pull(server.reference(name));
  return { server, registry, cache: registry.cache };
}

function unusedFor(cache: GlobalCache, reference: string, hours: number): void {
  const then = new Date(Date.now() - hours * HOUR);
  utimesSync(cache.imageMetadataPath(reference), then, then);
}

describe('the images of a cache', () => {
  it('are listed with what is known of them, those used last first', async (t) => {
    const { server, cache } = await filled(t);
    unusedFor(cache, server.reference('b:1'), 5);
    const images = await cache.images();
    assert.deepEqual(
      images.map(({ reference, complete }) => [reference, complete]),
      [
        [server.reference('a:1'), true],
        [server.reference('b:1'), true],
      ],
    );
    const [image] = images;
    assert.ok(image !== undefined && image.pulledAt !== null && Date.now() - image.pulledAt < 60_000);
    assert.deepEqual(
      [image.platform?.os, image.layerDigests.length, image.layerDigests[0]],
      ['linux', 2, shared.digest],
    );
    assert.ok((image.compressedBytes ?? 0) > 0);
    assert.deepEqual(await new GlobalCache(join(scratch('none'), 'none')).images(), []);
  });

  it('take the room they take, what they share once', async (t) => {
    const { cache } = await filled(t);
    const usage = await cache.usage();
    assert.deepEqual([usage.images, usage.layers, usage.unreferencedBytes], [2, 3, 0]);
    assert.ok(usage.treeBytes >= 100_000 && usage.treeBytes < 180_000, String(usage.treeBytes));
    const parts = Object.entries(usage).filter(([name]) => name.endsWith('Bytes') && name !== 'unreferencedBytes');
    assert.equal(
      parts.reduce((sum, [, bytes]) => sum + (bytes as number), 0),
      usage.bytes,
    );
  });

  it('are used by a hit, which is recorded once an hour and never on a read-only cache', async (t) => {
    const { server, registry, cache } = await filled(t);
    const reference = server.reference('a:1');
    unusedFor(cache, reference, 5);
    registry.pullCached(reference);
    const used = (await cache.images()).find((image) => image.reference === reference)?.lastUsedAt ?? 0;
    assert.ok(Date.now() - used < 60_000);
    registry.pullCached(reference);
    assert.equal((await cache.images()).find((image) => image.reference === reference)?.lastUsedAt, used);
  });
});

describe('removing an image', () => {
  it('takes the layers that no other image names', async (t) => {
    const { server, registry, cache } = await filled(t);
    const report = await cache.remove(server.reference('a:1'));
    assert.deepEqual([report.found, report.kept], [true, []]);
    assert.deepEqual(
      report.removed.map(({ kind, reason }) => [kind, reason]),
      [
        ['image', 'requested'],
        ['layer', 'unreferenced'],
      ],
    );
    assert.equal(registry.pullCached(server.reference('a:1')), null);
    assert.notEqual(registry.pullCached(server.reference('b:1')), null);
    assert.equal((await cache.remove(server.reference('a:1'))).found, false);
    const before = server.requests.length;
    assert.equal((await registry.pull(server.reference('a:1'))).cached, false);
    const fetched = server.requests.slice(before).filter(({ path }) => path.includes(shared.digest));
    assert.equal(fetched.length, 0, 'the shared layer was there');
  });

  it('refuses what is no reference', async () => {
    const cache = new GlobalCache(scratch('remove'));
    await assert.rejects(cache.remove('UPPER'), { code: 'ERR_INVALID_REFERENCE' });
    await assert.rejects(cache.remove(1 as unknown as string), { code: 'ERR_INVALID_ARG_TYPE' });
  });
});

describe('pruning', () => {
  it('tells in a dry run what it does afterwards', async (t) => {
    const { server, registry, cache } = await filled(t);
    unusedFor(cache, server.reference('a:1'), 50);
    const dry = await cache.prune({ olderThan: 24 * HOUR, dryRun: true });
    assert.notEqual(registry.pullCached(server.reference('b:1')), null);
    assert.equal((await cache.images()).length, 2);
    const report = await cache.prune({ olderThan: 24 * HOUR });
    assert.deepEqual({ ...report, dryRun: true }, dry);
    assert.deepEqual(
      report.removed.map(({ kind, reason }) => [kind, reason]),
      [
        ['image', 'unused'],
        ['layer', 'unreferenced'],
      ],
    );
    assert.deepEqual(
      (await cache.images()).map(({ reference }) => reference),
      [server.reference('b:1')],
    );
  });

  it('keeps what is named, or those used last, or what fits', async (t) => {
    const { server, cache } = await filled(t);
    unusedFor(cache, server.reference('a:1'), 50);
    unusedFor(cache, server.reference('b:1'), 60);
    assert.deepEqual((await cache.prune({ keep: 2 })).removed, []);
    const named = await cache.prune({ olderThan: HOUR, keep: [server.reference('b:1')] });
    assert.deepEqual(named.removed[0]?.name, server.reference('a:1'));
    const all = await cache.prune({ maxBytes: 0 });
    assert.deepEqual([all.removed[0]?.reason, (await cache.images()).length], ['over-budget', 0]);
    assert.equal((await cache.usage()).layers, 0);
  });

  it('drops blobs and the image stays a hit', async (t) => {
    const { server, registry, cache } = await filled(t);
    const report = await cache.prune({ blobs: true });
    assert.deepEqual([report.removed.length, (await cache.usage()).blobBytes], [3, 0]);
    assert.notEqual(registry.pullCached(server.reference('a:1')), null);
  });

  it('sweeps what crashes left', async (t) => {
    const { cache } = await filled(t);
    const layers = join(cache.directory, 'layers');
    mkdirSync(join(layers, '.trash-7-7', 'deep'), { recursive: true });
    writeFileSync(join(layers, '.probe-7-7'), '');
    mkdirSync(cache.layerExtractingDir(`sha256:${'c'.repeat(64)}`));
    await cache.prune();
    const left = readdirSync(layers).filter((name) => name.startsWith('.') || name.endsWith('.extracting'));
    assert.deepEqual(left, []);
  });

  it('takes nothing that this or another process leases, until the lease ends', async (t) => {
    const { server, registry, cache } = await filled(t);
    const { layerDigests } = registry.pullCached(server.reference('a:1'))!;
    const lease = await cache.lease(layerDigests);
    assert.deepEqual((await cache.prune({ keep: 0 })).removed.map(({ name }) => name).slice(0, 1), [
      server.reference('b:1'),
    ]);
    assert.notEqual(registry.pullCached(server.reference('a:1')), null);
    lease.release();
    lease.release();

    // Another process takes one and is killed.
    const main = join(__dirname, '..', '..', 'dist', 'index.js');
    const script = `const { GlobalCache } = require(${JSON.stringify(main)});
      new GlobalCache(${JSON.stringify(cache.directory)}).lease(${JSON.stringify(layerDigests)})
        .then(() => { console.log('leased'); setInterval(() => {}, 1000); });`;
    const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    assert.deepEqual((await cache.prune({ keep: 0 })).removed, []);
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.ok((await cache.prune({ keep: 0 })).removed.length > 0);
    assert.equal(registry.pullCached(server.reference('a:1')), null);
    await assert.rejects(cache.lease(layerDigests), { code: 'ERR_NOT_CACHED' });
  });

  it('says which option is wrong', async () => {
    const cache = new GlobalCache(scratch('prune'));
    await assert.rejects(cache.prune({ keep: -1 }), /options\.keep/);
    await assert.rejects(cache.prune({ olderThan: 'x' as unknown as number }), /options\.olderThan/);
    await assert.rejects(cache.prune({ keep: ['UPPER'] }), { code: 'ERR_INVALID_REFERENCE' });
  });
});

describe('verifying', () => {
  it('finds damage, mends it from the blob, and leaves the rest alone', async (t) => {
    const { server, registry, cache } = await filled(t);
    const report = await cache.verify({ depth: 'content' });
    assert.deepEqual([report.ok, report.images, report.layers, report.problems, report.skipped], [true, 2, 3, [], []]);
    const { layers, layerDigests } = registry.pullCached(server.reference('a:1'))!;
    const file = join(layers[1]!, 'etc/a');
    truncateSync(file, 5);
    assert.equal((await cache.verify({ depth: 'marker' })).ok, true);
    const found = await cache.verify();
    const [problem] = found.problems;
    assert.deepEqual(
      [
        found.ok,
        found.problems.length,
        problem?.kind,
        problem?.path,
        problem?.layer,
        problem?.images,
        problem?.repaired,
      ],
      [false, 1, 'wrong-file', file, layerDigests[1], [server.reference('a:1')], null],
    );
    const before = server.requests.length;
    const mended = await cache.verify({ repair: true });
    assert.deepEqual([mended.ok, mended.problems[0]?.repaired], [true, 'extracted']);
    assert.equal(readFileSync(file, 'utf8').length, 20_000);
    assert.equal(server.requests.length, before, 'nothing was fetched');
    assert.equal((await cache.verify({ depth: 'content' })).ok, true);
  });

  it('removes what it can not mend, and the next pull heals it without force', async (t) => {
    const { server, registry, cache } = await filled(t);
    await cache.prune({ blobs: true });
    const { layers } = registry.pullCached(server.reference('a:1'))!;
    truncateSync(join(layers[1]!, 'etc/a'), 5);
    assert.equal((await cache.verify({ repair: true })).problems[0]?.repaired, 'deleted');
    assert.equal(existsSync(layers[1]!), false);
    assert.notEqual(registry.pullCached(server.reference('b:1')), null);
    const healed = await registry.pull(server.reference('a:1'));
    assert.equal(readFileSync(join(healed.layers[1]!, 'etc/a'), 'utf8').length, 20_000);
  });

  it('is not needed where a pull takes a damaged layer: it is extracted again without force', async (t) => {
    const { server, registry, cache } = await filled(t);
    const { layers, layerDigests } = registry.pullCached(server.reference('a:1'))!;
    truncateSync(join(layers[1]!, 'etc/a'), 5);
    truncateSync(cache.layerIndexPath(layerDigests[0]!), 40);
    await registry.pull(server.reference('a:1'), { policy: 'always' });
    assert.equal(readFileSync(join(layers[1]!, 'etc/a'), 'utf8').length, 20_000);
    for (const digest of layerDigests) {
      assert.equal(server.requests.filter(({ path }) => path.includes(digest)).length, 1, 'fetched once');
    }
    assert.equal((await cache.verify({ depth: 'content' })).ok, true);
  });

  it('stops when its signal says so, with its reason', async (t) => {
    const { cache } = await filled(t);
    await assert.rejects(cache.verify({ signal: AbortSignal.abort(new Error('enough')) }), /enough/);
    await assert.rejects(cache.verify({ depth: 'deep' as 'size' }), { code: 'ERR_INVALID_ARG_TYPE' });
  });
});
