/** Pulls through the addon from the registry of `microsandbox-image/testing`. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ImageError, LayerIndex, type PullProgress, readStat, Reference, Registry } from 'microsandbox-image';
import { image, index, layer, startRegistry, type TarEntry, type TestRegistry } from 'microsandbox-image/testing';
import { scratch } from './support/scratch.js';

const BASE: TarEntry[] = [
  { path: 'etc', type: 'directory', mode: 0o755 },
  { path: 'etc/motd', content: 'hello', uid: 1000, gid: 100, mode: 0o640, mtime: 1_700_000_000 },
  { path: 'etc/link', type: 'symlink', linkTarget: 'motd' },
  { path: 'etc/hard', type: 'hardlink', linkTarget: 'etc/motd' },
];
const TOP: TarEntry[] = [
  { path: 'etc/motd', type: 'whiteout' },
  { path: 'opt/tool', content: 'x'.repeat(100_000), mode: 0o4755 },
];

async function serve(t: { after: (clean: () => Promise<void>) => void }): Promise<TestRegistry> {
  const registry = await startRegistry({ images: { 'app:1': { layers: [BASE, TOP], config: { Env: ['A=1'] } } } });
  t.after(() => registry.close());
  return registry;
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => assert.fail('it should have failed'),
    (error: unknown) => error,
  );
  assert.ok(error instanceof ImageError, String(error));
  return error.code;
}

/** What must not be left by a pull that failed. */
function leftovers(cache: string): string[] {
  const names = existsSync(join(cache, 'layers')) ? readdirSync(join(cache, 'layers')) : [];
  return names.filter((name) => /\.(extracting|extracted|index|implicit_dirs)$|\.tar\.gz$|^\.(trash|probe)/.test(name));
}

describe('a pull', () => {
  it('brings an image in and answers it from the cache afterwards', async (t) => {
    const server = await serve(t);
    const registry = new Registry({ cache: scratch('pull') });
    const reference = server.reference('app:1');
    assert.equal(registry.pullCached(reference), null);
    const result = await registry.pull(reference);
    assert.equal(result.cached, false);
    assert.equal(result.layers.length, 2);
    assert.deepEqual(result.config.env, ['A=1']);
    const [base = '', top = ''] = result.layers;
    assert.equal(readFileSync(join(base, 'etc/motd'), 'utf8'), 'hello');
    assert.deepEqual(readStat(join(base, 'etc/motd')), { uid: 1000, gid: 100, mode: 0o100640, rdev: 0 });
    assert.equal(statSync(join(base, 'etc/motd')).mtimeMs, 1_700_000_000_000);
    assert.equal(statSync(join(base, 'etc/motd')).ino, statSync(join(base, 'etc/hard')).ino);
    assert.ok(existsSync(join(top, 'etc/.wh.motd')));

    const requests = server.requests.length;
    const hit = registry.pullCached(Reference.parse(reference));
    assert.deepEqual({ ...hit, cached: false }, result);
    assert.deepEqual((await registry.pull(reference)).cached, true);
    assert.equal(server.requests.length, requests);
  });

  it('tells what happens, and a hit in exactly three events', async (t) => {
    const server = await serve(t);
    const registry = new Registry({ cache: scratch('events') });
    const types = async (): Promise<PullProgress['type'][]> => {
      const events: PullProgress['type'][] = [];
      for await (const event of registry.pull(server.reference('app:1'))) events.push(event.type);
      return events;
    };
    const first = await types();
    assert.deepEqual([first[0], first[1], first.at(-1)], ['resolving', 'resolved', 'complete']);
    for (const type of ['layer-download-complete', 'layer-extract-complete', 'layer-index-complete']) {
      assert.equal(first.filter((event) => event === type).length, 2, type);
    }
    assert.deepEqual(await types(), ['resolving', 'resolved', 'complete']);
  });

  it('gives directories no entry described what the lower layer says of them, in tree and index', async (t) => {
    const server = await startRegistry({
      images: {
        'app:1': {
          layers: [
            [{ path: 'opt', type: 'directory', mode: 0o700, uid: 7, gid: 8 }],
            [{ path: 'opt/x/y', content: '1' }],
          ],
        },
      },
    });
    t.after(() => server.close());
    const registry = new Registry({ cache: scratch('implicit') });
    const { layers, layerDigests } = await registry.pull(server.reference('app:1'));
    const top = layers[1] ?? '';
    assert.deepEqual(readStat(join(top, 'opt')), { uid: 7, gid: 8, mode: 0o040700, rdev: 0 });
    assert.deepEqual(readStat(join(top, 'opt/x')), { uid: 0, gid: 0, mode: 0o040755, rdev: 0 });
    const index = LayerIndex.open(registry.cache.layerIndexPath(layerDigests[1] ?? ''));
    const entry = index.lookup('opt');
    assert.deepEqual([entry?.uid, entry?.gid, entry?.mode], [7, 8, 0o040700]);
    assert.equal(index.lookup('opt/x/y')?.inode, BigInt(statSync(join(top, 'opt/x/y')).ino));
  });

  it('fills a hard link to a file that only a lower layer has, for each image anew', async (t) => {
    const top: TarEntry[] = [{ path: 'usr/tool', type: 'hardlink', linkTarget: '/bin/tool' }];
    const base = (content: string, mode: number): TarEntry[] => [
      { path: 'bin/tool', content, mode, uid: 3, mtime: 1_500_000_000 },
    ];
    const server = await startRegistry({
      images: {
        'one:1': { layers: [base('abc', 0o755), top] },
        'two:1': { layers: [base('other', 0o700), top] },
        'none:1': { layers: [base('abc', 0o755), [{ path: 'bin/tool', type: 'whiteout' }], top] },
      },
    });
    t.after(() => server.close());
    const registry = new Registry({ cache: scratch('lower-link') });
    for (const [name, content, mode] of [
      ['one:1', 'abc', 0o100755],
      ['two:1', 'other', 0o100700],
    ] as const) {
      const { layers, indexes } = await registry.pull(server.reference(name));
      const file = join(layers[1] ?? '', 'usr/tool');
      assert.equal(readFileSync(file, 'utf8'), content);
      assert.deepEqual(readStat(file), { uid: 3, gid: 0, mode, rdev: 0 });
      const entry = LayerIndex.open(indexes[1] ?? '').lookup('usr/tool');
      assert.deepEqual([entry?.size, entry?.inode, entry?.mode], [content.length, BigInt(statSync(file).ino), mode]);
    }
    assert.equal(await codeOf(registry.pull(server.reference('none:1'))), 'ERR_EXTRACTION');
    assert.equal(registry.pullCached(server.reference('none:1')), null);
  });

  it('fetches a layer once that is listed twice', async (t) => {
    const one = layer(BASE);
    const server = await startRegistry({ images: { 'twice:1': { layers: [one, TOP, one, one] } } });
    t.after(() => server.close());
    const result = await new Registry({ cache: scratch('twice') }).pull(server.reference('twice:1'));
    assert.equal(result.layers[0], result.layers[3]);
    assert.equal(server.requests.filter(({ path }) => path.includes(one.digest)).length, 1);
  });

  it('takes an image of zero layers, an empty layer and one without an end', async (t) => {
    const images = {
      'none:1': { layers: [] },
      'empty:1': { layers: [[], { tar: Buffer.alloc(0) }, { tar: Buffer.alloc(1024) }] },
    };
    const server = await startRegistry({ images });
    t.after(() => server.close());
    const registry = new Registry({ cache: scratch('empty') });
    assert.deepEqual((await registry.pull(server.reference('none:1'))).layers, []);
    assert.equal((await registry.pull(server.reference('empty:1'))).layers.length, 3);
  });

  it('chooses the platform from an index and keeps both digests', async (t) => {
    const of = (platform: string) => ({
      platform,
      image: image({ layers: [[{ path: platform, content: '' }]], platform }),
    });
    const built = index([of('linux/arm64'), of('linux/arm/v6'), of('linux/arm/v7'), of('linux/amd64')]);
    const server = await startRegistry({ images: { 'multi:1': built } });
    t.after(() => server.close());
    const registry = new Registry({ cache: scratch('platforms'), platform: 'linux/arm/v8' });
    const resolved = await registry.resolve(server.reference('multi:1'));
    assert.deepEqual(resolved.platform, { os: 'linux', architecture: 'arm', variant: 'v7' });
    assert.equal(resolved.indexDigest, built.digest);
    const other = await registry.pull(server.reference('multi:1'), { platform: 'linux/amd64' });
    assert.equal(other.platform.architecture, 'amd64');
    assert.notEqual((await registry.pull(server.reference('multi:1'))).manifestDigest, other.manifestDigest);
    const error = await registry
      .pull(server.reference('multi:1'), { platform: 'linux/s390x' })
      .catch((error: unknown) => error);
    assert.ok(error instanceof ImageError);
    assert.equal(error.code, 'ERR_PLATFORM_NOT_FOUND');
    assert.equal((error.details?.['available'] as string[]).length, 4);
  });
});

describe('a policy', () => {
  it('never: opens no socket', async (t) => {
    const server = await serve(t);
    const registry = new Registry({ cache: scratch('never') });
    assert.equal(await codeOf(registry.pull(server.reference('app:1'), { policy: 'never' })), 'ERR_NOT_CACHED');
    assert.equal(server.requests.length, 0);
  });

  it('always: asks for the manifest and reuses layers', async (t) => {
    const server = await serve(t);
    const registry = new Registry({ cache: scratch('always') });
    await registry.pull(server.reference('app:1'));
    server.requests.length = 0;
    const result = await registry.pull(server.reference('app:1'), { policy: 'always' });
    assert.equal(result.cached, true);
    assert.ok(server.requests.some(({ path }) => path.includes('/manifests/')));
    assert.ok(!server.requests.some(({ path }) => result.layerDigests.some((digest) => path.includes(digest))));
  });

  it('force: fetches and extracts again', async (t) => {
    const server = await serve(t);
    const registry = new Registry({ cache: scratch('force') });
    const before = await registry.pull(server.reference('app:1'));
    const file = join(before.layers[0] ?? '', 'etc/motd');
    writeFileSync(file, 'changed');
    server.requests.length = 0;
    assert.equal((await registry.pull(server.reference('app:1'), { force: true })).cached, false);
    assert.equal(readFileSync(file, 'utf8'), 'hello');
    assert.equal(
      server.requests.filter(({ path }) => before.layerDigests.some((digest) => path.includes(digest))).length,
      2,
    );
  });
});

describe('a damaged cache', () => {
  it('is mended by a pull without force', async (t) => {
    const server = await serve(t);
    const cache = scratch('damage');
    const registry = new Registry({ cache });
    const result = await registry.pull(server.reference('app:1'));
    const [digest = ''] = result.layerDigests;
    const blob = registry.cache.layerBlobPath(digest);
    const bytes = readFileSync(blob);
    bytes.writeUInt8(bytes.readUInt8(40) ^ 1, 40);
    writeFileSync(blob, bytes);
    writeFileSync(registry.cache.imageMetadataPath(server.reference('app:1')), '{"damaged":');
    const { rmSync } = await import('node:fs');
    rmSync(registry.cache.layerDir(digest), { recursive: true });
    const again = await registry.pull(server.reference('app:1'));
    assert.equal(readFileSync(join(again.layers[0] ?? '', 'etc/motd'), 'utf8'), 'hello');
  });
});

describe('stopping a pull', () => {
  const stalled = async (t: { after: (clean: () => Promise<void>) => void }): Promise<TestRegistry> => {
    const server = await serve(t);
    // The config passes, the layers stall.
    server.faults.add({ on: 'blob', skip: 1, do: 'stall', after: 150 });
    return server;
  };

  it('rejects with the reason of the signal within a quarter of a second and leaves nothing half made', async (t) => {
    const server = await stalled(t);
    const cache = scratch('abort');
    const registry = new Registry({ cache });
    const controller = new AbortController();
    const pull = registry.pull(server.reference('app:1'), { signal: controller.signal });
    setTimeout(() => {
      controller.abort(new Error('enough'));
    }, 300);
    const rejected = await pull.catch((error: unknown) => [error, performance.now()] as const);
    assert.ok(Array.isArray(rejected));
    assert.equal((rejected[0] as Error).message, 'enough');
    assert.deepEqual(leftovers(cache), []);
    // The locks are free: a pull that waits for none of them is done at once.
    server.faults.clear();
    assert.equal((await new Registry({ cache, lockTimeout: 1000 }).pull(server.reference('app:1'))).cached, false);
  });

  it('honours a signal that was aborted before', async () => {
    const registry = new Registry({ cache: scratch('aborted') });
    const pull = registry.pull('127.0.0.1:1/x', { signal: AbortSignal.abort('no') });
    assert.equal(await pull.catch((error: unknown) => error), 'no');
  });

  it('happens when the loop is left', async (t) => {
    const server = await stalled(t);
    const pull = new Registry({ cache: scratch('break') }).pull(server.reference('app:1'));
    for await (const event of pull) if (event.type === 'resolved') break;
    assert.equal(await codeOf(pull), 'ERR_ABORTED');
  });

  it('keeps what was downloaded, and the next pull fetches only the rest', async (t) => {
    const server = await serve(t);
    const cache = scratch('resume');
    const big = {
      'big:1': {
        layers: [{ entries: [{ path: 'x', content: Buffer.alloc(3_000_000, 7) }], compression: 'none' as const }],
      },
    };
    server.push('big:1', image(big['big:1']));
    server.faults.add({ on: 'blob', do: 'stall', after: 1_000_000 });
    const controller = new AbortController();
    const pull = new Registry({ cache }).pull(server.reference('big:1'), { signal: controller.signal });
    setTimeout(() => {
      controller.abort();
    }, 500);
    await assert.rejects(pull, { name: 'AbortError' });
    server.faults.clear();
    server.requests.length = 0;
    await new Registry({ cache }).pull(server.reference('big:1'));
    const blob = server.requests.find(({ path, headers }) => path.includes('/blobs/') && headers.range !== undefined);
    assert.match(String(blob?.headers.range), /^bytes=[1-9]\d{4,}-$/);
  });
});

describe('what goes wrong', () => {
  it('has a code, names what it happened to, and leaves nothing under a final name', async (t) => {
    const server = await serve(t);
    const cases: [string, string, () => void][] = [
      ['ERR_NOT_FOUND', 'app:missing', () => undefined],
      ['ERR_NOT_FOUND', 'nothing:1', () => undefined],
      ['ERR_DIGEST_MISMATCH', 'app:1', () => server.faults.add({ on: 'blob', skip: 1, do: 'wrong-bytes', at: 20 })],
      ['ERR_NETWORK', 'app:1', () => server.faults.add({ on: 'blob', do: 'cut', after: 10 })],
      ['ERR_REGISTRY', 'app:1', () => server.faults.add({ on: 'manifest', do: 'status', status: 503 })],
      ['ERR_TIMEOUT', 'app:1', () => server.faults.add({ on: 'blob', do: 'stall', after: 10 })],
      ['ERR_DIGEST_MISMATCH', 'app:1', () => server.faults.add({ on: 'blob', do: 'endless' })],
      ['ERR_DIGEST_MISMATCH', 'app:1', () => server.faults.add({ on: 'blob', do: 'too-long' })],
    ];
    for (const [code, name, prepare] of cases) {
      server.faults.clear();
      prepare();
      const cache = scratch('wrong');
      const registry = new Registry({ cache, retries: 1, stallTimeout: 300 });
      const error = await registry.pull(server.reference(name)).catch((error: unknown) => error);
      assert.ok(error instanceof ImageError, String(error));
      assert.equal(error.code, code, error.message);
      assert.equal(error.reference, server.reference(name));
      assert.deepEqual(leftovers(cache), [], code);
    }
  });

  it('is the digest, not the archive, where wrong bytes break the archive first', async (t) => {
    const server = await serve(t);
    const content = Buffer.alloc(4_000_000, 'not so easy to pack \n');
    server.push('big:1', image({ layers: [{ entries: [{ path: 'x', content }], compression: 'none' }] }));
    server.faults.add({ on: 'blob', skip: 1, do: 'wrong-bytes', at: 5 });
    const requests = server.requests.length;
    const registry = new Registry({ cache: scratch('wrong-first') });
    assert.equal(await codeOf(registry.pull(server.reference('big:1'))), 'ERR_DIGEST_MISMATCH');
    // Fetched once: the same server would send the same bytes again.
    assert.equal(server.requests.slice(requests).filter(({ path }) => path.includes('/blobs/')).length, 2);
  });

  it('is a TypeError with a code for wrong types of arguments', () => {
    const registry = new Registry({ cache: scratch('types') });
    const wrong: (() => unknown)[] = [
      () => registry.pull(1 as never),
      () => registry.pull('x', { policy: 'sometimes' as never }),
      () => registry.pull('x', null as never),
      () => registry.pull('x', { force: 'yes' as never }),
      () => registry.pull('x', { signal: {} as never }),
      () => registry.pull('x', { platform: { os: 1 } as never }),
      () => registry.cache.isExtracted(5 as never),
      () => new Registry({ cache: 3 as never }),
      () => new Registry({ auth: { username: 'x' } as never }),
      () => new Registry({ retries: -1 }),
      () => new Registry({ limits: { depth: 'x' as never } }),
      () => readStat(Buffer.from('x') as never),
      () => Reference.parse(undefined as never),
    ];
    for (const call of wrong) assert.throws(call, { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' }, String(call));
    assert.throws(() => registry.cache.layerDir('sha256:../x'), { code: 'ERR_INVALID_DIGEST' });
    assert.throws(() => new Registry({ caCertificates: 'no pem' }), { code: 'ERR_INVALID_OPTION' });
    assert.throws(() => new Registry({ platform: 'linux' }), { code: 'ERR_INVALID_OPTION' });
    assert.throws(() => registry.pullCached('UPPER'), { code: 'ERR_INVALID_REFERENCE' });
  });

  it('is reported where no catch is: an unhandled rejection, not silence', async () => {
    const pull = new Registry({ cache: scratch('handled') }).pull('bad reference');
    assert.equal(await codeOf(pull), 'ERR_INVALID_REFERENCE');
  });
});

describe('a login', () => {
  it('comes from a function that is asked by host', async (t) => {
    const server = await startRegistry({
      images: { 'app:1': { layers: [BASE] } },
      auth: { type: 'basic', users: { me: 'secret-word' } },
    });
    t.after(() => server.close());
    const hosts: string[] = [];
    const auth = (host: string) => {
      hosts.push(host);
      return Promise.resolve({ username: 'me', password: 'secret-word' });
    };
    await new Registry({ cache: scratch('auth'), auth }).pull(server.reference('app:1'));
    assert.deepEqual([...new Set(hosts)], [server.host]);
    const none = new Registry({ cache: scratch('noauth'), credentials: 'none' });
    assert.equal(await codeOf(none.pull(server.reference('app:1'))), 'ERR_UNAUTHORIZED');
  });
});
