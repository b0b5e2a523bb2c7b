/** `plan`: what a pull would do, and that asking changes nothing. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { plan, type PullPlan, Registry } from 'microsandbox-image';
import { type BuiltLayer, layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const layers = ['a', 'b', 'c'].map((name) => layer([{ path: name, content: randomBytes(20_000) }])) as [
  BuiltLayer,
  BuiltLayer,
  BuiltLayer,
];
const [a, b, c] = layers;
const total = a.size + b.size + c.size;

async function serve(t: TestContext): Promise<{ server: TestRegistry; registry: Registry; reference: string }> {
  const server = await startRegistry({ images: { 'app:1': { layers: [a, b, a, c] }, 'base:1': { layers: [a] } } });
  t.after(() => server.close());
  return { server, registry: new Registry({ cache: scratch('plan') }), reference: server.reference('app:1') };
}

const states = (plan: PullPlan): string[] => plan.layers.map(({ state }) => state);

describe('a plan', () => {
  it('says what would be fetched and what room that needs, and makes no file', async (t) => {
    const { server, registry, reference } = await serve(t);
    rmSync(registry.cache.directory, { recursive: true });
    const plan = await registry.plan(reference);
    assert.deepEqual([plan.reference, plan.cached, plan.platform], [reference, false, registry.platform]);
    assert.deepEqual(states(plan), ['missing', 'missing', 'missing', 'missing']);
    assert.deepEqual(
      plan.layers.map(({ digest, size, downloadBytes }) => [digest, size, downloadBytes]),
      [a, b, a, c].map(({ digest, size }) => [digest, size, size]),
    );
    // The layer that is listed twice counts once.
    assert.deepEqual([plan.downloadBytes, plan.leastDiskBytes, plan.diskBytes], [total, 2 * total, 4 * total]);
    assert.ok(plan.freeBytes !== null && plan.freeBytes > 0);
    assert.equal(existsSync(registry.cache.directory), false);
    assert.ok(!server.requests.some(({ path }) => layers.some(({ digest }) => path.includes(digest))));
    const { manifestDigest, configDigest } = await registry.pull(reference);
    assert.deepEqual([plan.manifestDigest, plan.configDigest], [manifestDigest, configDigest]);
  });

  it('counts what is there: trees, blobs and the parts of blobs', async (t) => {
    const { server, registry, reference } = await serve(t);
    await registry.pull(server.reference('base:1'));
    writeFileSync(registry.cache.layerBlobPath(b.digest), b.bytes);
    writeFileSync(registry.cache.layerPartPath(c.digest), c.bytes.subarray(0, 5000));
    const before = readdirSync(join(registry.cache.directory, 'layers'));
    const plan = await registry.plan(reference);
    assert.deepEqual(states(plan), ['cached', 'downloaded', 'cached', 'partial']);
    assert.deepEqual([plan.downloadBytes, plan.layers[3]?.downloadBytes], [c.size - 5000, c.size - 5000]);
    assert.equal(plan.leastDiskBytes, c.size - 5000 + b.size + c.size);
    assert.deepEqual(readdirSync(join(registry.cache.directory, 'layers')), before, 'nothing was written');

    // What it says is what the pull does.
    server.requests.length = 0;
    await registry.pull(reference);
    const fetched = server.requests.filter(({ path }) => layers.some(({ digest }) => path.includes(digest)));
    assert.deepEqual(
      fetched.map(({ headers }) => headers.range),
      ['bytes=5000-'],
    );
  });

  it('of an image that is in the cache needs no registry', async (t) => {
    const { server, registry, reference } = await serve(t);
    await registry.pull(reference);
    server.requests.length = 0;
    const plan = await registry.plan(reference, { policy: 'never' });
    assert.deepEqual(states(plan), ['cached', 'cached', 'cached', 'cached']);
    assert.deepEqual(
      [plan.cached, plan.downloadBytes, plan.diskBytes, plan.leastDiskBytes, server.requests.length],
      [true, 0, 0, 0, 0],
    );
  });

  it('follows the options of the pull, and fails as the pull would', async (t) => {
    const { registry, reference } = await serve(t);
    await assert.rejects(registry.plan(reference, { policy: 'never' }), { code: 'ERR_NOT_CACHED' });
    await assert.rejects(registry.plan(reference.replace('app:1', 'none:1')), { code: 'ERR_NOT_FOUND' });
    await assert.rejects(registry.plan(reference, { platform: 'linux/s390x' }), { code: 'ERR_PLATFORM_NOT_FOUND' });
    assert.throws(() => registry.plan(reference, { policy: 'sometimes' as 'never' }), { name: 'TypeError' });
    await assert.rejects(registry.plan(reference, { signal: AbortSignal.abort('no') }), (error) => error === 'no');
    await registry.pull(reference);
    const always = await registry.plan(reference, { policy: 'always' });
    assert.deepEqual([always.cached, always.downloadBytes], [false, 0]);
    assert.equal((await registry.plan(reference, { force: true })).downloadBytes, total);
    const kept = await registry.plan(reference, { force: true, keepBlobs: false });
    assert.equal(kept.leastDiskBytes, total);
  });

  it('says of a damaged layer that it would be made again', async (t) => {
    const { registry, reference } = await serve(t);
    const { layers: trees } = await registry.pull(reference);
    truncateSync(join(trees[1] ?? '', 'b'), 5);
    const plan = await registry.plan(reference, { policy: 'always' });
    assert.deepEqual(states(plan), ['cached', 'downloaded', 'cached', 'cached']);
  });

  it('can be asked for without a client', async (t) => {
    const { reference } = await serve(t);
    const directory = join(scratch('plan'), 'none');
    assert.equal((await plan(reference, { cache: directory })).downloadBytes, total);
  });

  it('is printed for people and for programs', async (t) => {
    const { server, registry, reference } = await serve(t);
    const cli = (...args: string[]) =>
      run(process.execPath, [MAIN, 'plan', ...args, '--cache-dir', registry.cache.directory]);
    await registry.pull(server.reference('base:1'));
    const { code, stdout, stderr } = await cli(reference, server.reference('base:1'));
    assert.deepEqual([code, stderr], [0, '']);
    const lines = stdout.split('\n');
    assert.match(lines[0] ?? '', /\/app:1 \(linux\/\w+\): sha256:[0-9a-f]{64}$/);
    assert.match(lines[1] ?? '', /^LAYER +COMPRESSED +STATE$/);
    assert.match(lines[2] ?? '', /^[0-9a-f]{12} +[\d.]+ KiB +in the cache$/);
    assert.match(lines[3] ?? '', /to be downloaded$/);
    assert.match(
      lines[6] ?? '',
      /^to download: 39\.\d KiB; room needed: about [\d.]+ KiB, at least [\d.]+ KiB, .* free$/,
    );
    assert.equal(lines[8], 'in the cache: nothing to do');
    const json = JSON.parse((await cli(reference, '--json')).stdout) as PullPlan;
    assert.equal(json.downloadBytes, b.size + c.size);
    const missing = await cli(server.reference('none:1'));
    assert.deepEqual([missing.code, missing.stdout, missing.stderr.split('\n').length], [1, '', 2]);
  });

  it('takes no lock: it is told while another process pulls', async (t) => {
    const { registry, reference } = await serve(t);
    const { cache } = registry;
    mkdirSync(join(cache.directory, 'layers'), { recursive: true });
    mkdirSync(join(cache.directory, 'images'));
    const { spawn } = await import('node:child_process');
    const holder = spawn('flock', [cache.imageLockPath(reference), 'sleep', '20'], { stdio: 'ignore' });
    try {
      await new Promise((resolve) => setTimeout(resolve, 200));
      const started = performance.now();
      await registry.plan(reference);
      assert.ok(performance.now() - started < 5000);
    } finally {
      holder.kill();
    }
  });
});
