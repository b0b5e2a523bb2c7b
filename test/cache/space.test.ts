/** Disks that are too small: refused before the first byte where that is certain, and left clean where it was not. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { ImageError, Registry } from 'microsandbox-image';
import { type BuiltLayer, layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { mountNew } from '../support/mounts.js';
import { run } from '../support/programs.js';

const MIB = 2 ** 20;
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');

async function serve(t: TestContext, ...layers: BuiltLayer[]): Promise<{ server: TestRegistry; reference: string }> {
  const server = await startRegistry({ images: { 'app:1': { layers }, 'small:1': { layers: [[{ path: 'x' }]] } } });
  t.after(() => server.close());
  return { server, reference: server.reference('app:1') };
}

async function failure(pull: Promise<unknown>): Promise<ImageError> {
  const error = await pull.then(
    () => assert.fail('it should have failed'),
    (error: unknown) => error,
  );
  assert.ok(error instanceof ImageError, String(error));
  return error;
}

/** No unfinished tree, no final name without its content, no temporary file. */
function assertClean(cache: string): void {
  const names = existsSync(join(cache, 'layers')) ? readdirSync(join(cache, 'layers')) : [];
  assert.deepEqual(
    names.filter((name) => !/\.lock$|\.tar\.gz(\.part)?$/.test(name)),
    [],
  );
  assert.deepEqual(
    readdirSync(join(cache, 'images')).filter((name) => !name.endsWith('.lock')),
    [],
  );
}

describe('a disk that is too small', () => {
  it('is found out before the first byte of a layer, and the error says what is needed', async (t) => {
    const mounted = mountNew(t, 16 * MIB);
    if (mounted === null) return;
    const big = layer([{ path: 'big', content: randomBytes(8 * MIB) }]);
    const { server, reference } = await serve(t, big);
    const registry = new Registry({ cache: join(mounted.directory, 'cache') });
    const error = await failure(registry.pull(reference));
    assert.equal(error.code, 'ERR_NO_SPACE');
    const { need, free } = error.details as { need: number; free: number };
    assert.equal(need, 2 * big.size);
    assert.ok(free < need && free > 8 * MIB, String(free));
    assert.ok(error.message.includes(`at least ${need} bytes are needed, ${free} are free`), error.message);
    assert.ok(!server.requests.some(({ path }) => path.includes(big.digest)), 'nothing of the layer was fetched');
    assertClean(registry.cache.directory);

    const { leastDiskBytes, freeBytes } = await registry.plan(reference);
    assert.ok(freeBytes !== null && leastDiskBytes === need && freeBytes < need);
    const flags = ['--cache-dir', registry.cache.directory];
    const { code, stderr } = await run(process.execPath, [MAIN, 'pull', '--quiet', reference, ...flags]);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^error: .*no space left at .*bytes are needed.*\(make room, or choose another --cache-dir\)\n$/,
    );
    const planned = await run(process.execPath, [MAIN, 'plan', reference, ...flags]);
    assert.match(planned.stdout, /; it does not fit\n$/);

    // Without the blob the tree fits.
    await registry.pull(reference, { keepBlobs: false }).catch((error: unknown) => {
      assert.equal((error as ImageError).details?.['need'], null, 'the check let it pass');
    });
  });

  it('does not refuse what fits since a part is there, or what replaces what is there', async (t) => {
    const mounted = mountNew(t, 32 * MIB);
    if (mounted === null) return;
    const big = layer([{ path: 'big', content: randomBytes(10 * MIB) }]);
    const { reference } = await serve(t, big);
    const registry = new Registry({ cache: join(mounted.directory, 'cache') });
    const { layers } = await registry.pull(reference);
    // Now 20 of 32 MiB are taken.
    assert.equal((await registry.pull(reference, { policy: 'always' })).cached, true);
    rmSync(layers[0] ?? '', { recursive: true });
    assert.equal((await registry.pull(reference)).cached, true, 'extracted from its blob');
  });

  it('leaves a clean cache where it is full in the middle, and the next pull goes on from there', async (t) => {
    const mounted = mountNew(t, 16 * MIB);
    if (mounted === null) return;
    // It packs well, so that nobody can know.
    const text = Buffer.alloc(24 * MIB, 'packs well\n');
    const [big, small] = [layer([{ path: 'big', content: text }]), layer([{ path: 'small', content: 'x' }])];
    const { server, reference } = await serve(t, small, big);
    const cache = join(mounted.directory, 'cache');
    const registry = new Registry({ cache });
    const error = await failure(registry.pull(reference));
    assert.deepEqual([error.code, error.layer], ['ERR_NO_SPACE', big.digest], error.message);
    assert.match(error.message, /no space left at .*: \d+ bytes are free$/);
    const left = readdirSync(join(cache, 'layers')).filter((name) => name.includes(big.digest.slice(7)));
    assert.ok(!left.some((name) => /\.(extracting|extracted|index)$/.test(name)), left.join());
    assert.equal(registry.pullCached(reference), null);
    assert.equal((await registry.cache.verify({ depth: 'content' })).ok, true);
    // A small image still fits, and the large one is not fetched again in vain where there is room.
    await registry.pull(server.reference('small:1'));
    const roomy = mountNew(t, 64 * MIB);
    assert.ok(roomy !== null);
    const { cpSync } = await import('node:fs');
    cpSync(cache, join(roomy.directory, 'cache'), { recursive: true });
    server.requests.length = 0;
    await new Registry({ cache: join(roomy.directory, 'cache') }).pull(reference);
    assert.ok(!server.requests.some(({ path, headers }) => path.includes(big.digest) && headers.range === undefined));
  });

  it('fails where the blob is full, too, with the check switched off', async (t) => {
    const mounted = mountNew(t, 8 * MIB);
    if (mounted === null) return;
    const big = layer([{ path: 'big', content: randomBytes(12 * MIB) }]);
    const { reference } = await serve(t, big);
    const registry = new Registry({ cache: join(mounted.directory, 'cache') });
    const error = await failure(registry.pull(reference, { checkSpace: false }));
    assert.deepEqual([error.code, error.details?.['need']], ['ERR_NO_SPACE', null], error.message);
    assertClean(registry.cache.directory);
    const flags = ['--no-space-check', '--quiet', '--cache-dir', registry.cache.directory];
    const { code, stderr } = await run(process.execPath, [MAIN, 'pull', reference, ...flags]);
    assert.equal(code, 1);
    assert.match(stderr, /^error: .*no space left at .*free/);
  });

  it('that lacks inodes, not bytes, is told so, before and in the middle', async (t) => {
    const mounted = mountNew(t, 16 * MIB, { make: ['-N', '64'] });
    if (mounted === null) return;
    const entries = Array.from({ length: 100 }, (_, at) => ({ path: `f${at}`, content: '' }));
    const { reference } = await serve(t, layer(entries));
    const registry = new Registry({ cache: join(mounted.directory, 'cache') });
    const error = await failure(registry.pull(reference));
    assert.equal(error.code, 'ERR_NO_SPACE');
    assert.match(error.message, /only \d+ inodes are free, whatever the bytes \(\d+\)$/);
    assertClean(registry.cache.directory);

    const many = Array.from({ length: 30 }, (_, at) => layer([{ path: `f${at}`, content: '' }]));
    const other = await serve(t, ...many);
    const refused = await failure(registry.pull(other.reference));
    assert.deepEqual([refused.code, refused.details?.['need']], ['ERR_NO_SPACE', null]);
    assert.ok(!other.server.requests.some(({ path }) => path.includes(many[0]!.digest)), 'before the first byte');
  });
});
