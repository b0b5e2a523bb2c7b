/** Platforms and odd manifests: what is chosen, what is told, what is refused. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { image, index, rawManifest, type BuiltIndex, type Publishable } from 'microsandbox-image/testing';
import { client, failure, serve } from './serving.js';

const WAY = 'plain HTTP';
const forPlatform = (platform: string): ReturnType<typeof image> => image({ layers: [], platform });

function indexOf(...platforms: string[]): BuiltIndex {
  return index(platforms.map((platform) => ({ image: forPlatform(platform) })));
}

const CHOICES: [string[], string, string | null][] = [
  [['linux/arm/v5', 'linux/arm/v7', 'linux/arm/v6'], 'linux/arm/v7', 'linux/arm/v7'],
  [['linux/arm/v5', 'linux/arm/v6'], 'linux/arm/v7', 'linux/arm/v6'],
  [['linux/arm/v7', 'linux/arm/v5'], 'linux/armhf', 'linux/arm/v7'],
  [['linux/arm/v7'], 'linux/arm/v6', null],
  [['linux/amd64/v3', 'linux/amd64/v2', 'linux/amd64'], 'linux/amd64/v3', 'linux/amd64/v3'],
  [['linux/amd64', 'linux/amd64/v2'], 'linux/amd64/v3', 'linux/amd64/v2'],
  [['linux/amd64/v3', 'linux/amd64'], 'linux/x86_64', 'linux/amd64'],
  [['windows/amd64', 'linux/arm64'], 'linux/aarch64', 'linux/arm64'],
  [['linux/arm64/v8'], 'linux/arm64', 'linux/arm64/v8'],
  [['windows/amd64', 'linux/s390x'], 'linux/amd64', null],
  [[], 'linux/amd64', null],
];

describe('an index', () => {
  for (const [offered, wanted, chosen] of CHOICES) {
    it(`of ${offered.join(', ') || 'nothing'} gives ${wanted} ${chosen ?? 'an error that lists them'}`, async (t) => {
      const server = await serve(t, WAY, { images: { 'app:1': indexOf(...offered) } });
      const resolving = client(WAY, { platform: wanted }).resolve(server.reference('app:1'));
      if (chosen === null) {
        const error = await failure(resolving);
        assert.equal(error.code, 'ERR_PLATFORM_NOT_FOUND');
        for (const platform of offered) assert.ok(error.message.includes(platform), error.message);
        return;
      }
      const resolved = await resolving;
      assert.equal(resolved.manifestDigest, forPlatform(chosen).digest);
      assert.equal(resolved.indexDigest, indexOf(...offered).digest);
      assert.equal(resolved.candidates.length, offered.length);
      assert.ok(resolved.reason.includes(chosen), resolved.reason);
    });
  }

  it('within an index is followed, an attestation never', async (t) => {
    const attestation = { image: forPlatform('unknown/unknown'), missing: true };
    const marked = {
      image: forPlatform('linux/amd64'),
      annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
      missing: true,
    };
    const inner = (platform: string): BuiltIndex => index([{ image: indexOf(platform), platform: null }]);
    const outer = index([
      attestation,
      marked,
      { image: inner('linux/arm64'), platform: null },
      { image: inner('linux/amd64'), platform: null },
    ]);
    const server = await serve(t, WAY, { images: { 'app:1': outer } });
    const resolved = await client(WAY, { platform: 'linux/amd64' }).resolve(server.reference('app:1'));
    assert.equal(resolved.manifestDigest, forPlatform('linux/amd64').digest);
    assert.equal(resolved.indexDigest, outer.digest);
  });

  it('nested too deeply is refused', async (t) => {
    let nested = indexOf('linux/amd64');
    for (let depth = 0; depth < 6; depth++) nested = index([{ image: nested, platform: null }]);
    const server = await serve(t, WAY, { images: { 'app:1': nested } });
    const error = await failure(client(WAY, { platform: 'linux/amd64' }).resolve(server.reference('app:1')));
    assert.equal(error.code, 'ERR_MANIFEST');
  });

  it('that is sparse serves what is there', async (t) => {
    const sparse = index([{ image: forPlatform('linux/amd64') }, { image: forPlatform('linux/arm64'), missing: true }]);
    const server = await serve(t, WAY, { images: { 'app:1': sparse } });
    await client(WAY, { platform: 'linux/amd64' }).pull(server.reference('app:1'));
    const error = await failure(client(WAY, { platform: 'linux/arm64' }).pull(server.reference('app:1')));
    assert.equal(error.code, 'ERR_NOT_FOUND');
  });

  it('may name versions and features of the system', async (t) => {
    const platform = { os: 'linux', architecture: 'amd64', 'os.version': '6.1', 'os.features': ['x'] };
    const odd = index([{ image: forPlatform('linux/amd64'), fields: { platform } }]);
    const server = await serve(t, WAY, { images: { 'app:1': odd } });
    await client(WAY, { platform: 'linux/amd64' }).pull(server.reference('app:1'));
  });
});

describe('a reference', () => {
  it('to one image of another platform is refused unless that is allowed', async (t) => {
    const server = await serve(t, WAY, { images: { 'app:1': forPlatform('linux/arm64') } });
    const registry = client(WAY, { platform: 'linux/amd64' });
    const error = await failure(registry.pull(server.reference('app:1')));
    assert.equal(error.code, 'ERR_PLATFORM_NOT_FOUND');
    const { platform } = await registry.pull(server.reference('app:1'), { allowPlatformMismatch: true });
    assert.deepEqual(platform, { os: 'linux', architecture: 'arm64' });
  });

  it('to one image of another platform is a hit afterwards for who allows it, and for nobody else', async (t) => {
    const server = await serve(t, WAY, { images: { 'app:1': forPlatform('linux/arm64') } });
    const registry = client(WAY, { platform: 'linux/amd64' });
    const [reference, allowed] = [server.reference('app:1'), { allowPlatformMismatch: true }];
    const pulled = await registry.pull(reference, allowed);
    const requests = server.requests.length;
    assert.equal(registry.pullCached(reference), null);
    assert.deepEqual(registry.pullCached(reference, allowed), { ...pulled, cached: true });
    assert.deepEqual(await registry.pull(reference, allowed), { ...pulled, cached: true });
    assert.equal((await registry.pull(reference, { ...allowed, policy: 'never' })).cached, true);
    assert.equal((await registry.plan(reference, allowed)).cached, true);
    assert.equal(server.requests.length, requests, 'a hit asks nobody');
    assert.equal((await failure(registry.pull(reference))).code, 'ERR_PLATFORM_NOT_FOUND');
    assert.equal((await failure(registry.pull(reference, { policy: 'never' }))).code, 'ERR_NOT_CACHED');
  });

  it('is answered from the cache for the platform that is asked for, not for another', async (t) => {
    const images = { 'app:1': index([{ image: forPlatform('linux/amd64') }, { image: forPlatform('linux/arm64') }]) };
    const server = await serve(t, WAY, { images });
    const registry = client(WAY, { platform: 'linux/amd64' });
    const reference = server.reference('app:1');
    await registry.pull(reference);
    assert.equal(registry.pullCached(reference, { platform: 'linux/arm64' }), null);
    const { manifestDigest } = await registry.pull(reference, { platform: 'linux/arm64' });
    const hit = registry.pullCached(reference, { platform: 'linux/arm64' });
    assert.deepEqual([hit?.manifestDigest, hit?.platform.architecture], [manifestDigest, 'arm64']);
    assert.equal(registry.pullCached(reference)?.platform.architecture, 'amd64');
    assert.throws(() => registry.pullCached(reference, { platform: 'nowhere' }), { code: 'ERR_INVALID_OPTION' });
  });

  it('by digest gets the bytes that hash to it, and no others', async (t) => {
    const built = image({ layers: [] });
    const server = await serve(t, WAY, { images: { 'app:1': built } });
    const pinned = server.reference(`app@${built.digest}`);
    const result = await client(WAY).pull(pinned);
    assert.equal(result.manifestDigest, built.digest);
    server.faults.add({ on: 'manifest', do: 'wrong-bytes' });
    assert.equal((await failure(client(WAY).pull(pinned))).code, 'ERR_DIGEST_MISMATCH');
  });

  it('keeps manifest, index and config as they were served', async (t) => {
    const built = index([{ image: forPlatform('linux/amd64') }]);
    const server = await serve(t, WAY, { images: { 'app:1': built } });
    const resolved = await client(WAY, { platform: 'linux/amd64' }).resolve(server.reference('app:1'));
    const sha256 = (text = ''): string => `sha256:${createHash('sha256').update(text).digest('hex')}`;
    assert.equal(sha256(resolved.rawManifest), resolved.manifestDigest);
    assert.equal(sha256(resolved.rawIndex), resolved.indexDigest);
    assert.equal(sha256(resolved.rawConfig), resolved.configDigest);
  });

  it('to an IPv6 literal works', async (t) => {
    const server = await serve(t, WAY, { address: '::1', images: { 'app:1': { layers: [] } } });
    assert.ok(server.host.startsWith('[::1]:'), server.host);
    await client(WAY).pull(server.reference('app:1'));
  });
});

const padded = image({ layers: [], manifestFields: { annotations: { padding: 'x'.repeat(3_900_000) } } });
const OCI = 'application/vnd.oci.image';
const DOCKER = 'application/vnd.docker';

const ODD: [string, Publishable, string | null][] = [
  ['without layers', { layers: [] }, null],
  ['of sha512 digests', { layers: [[{ path: 'a', content: 'a' }]], digestAlgorithm: 'sha512' }, null],
  ['by Docker', { layers: [[{ path: 'a', content: 'a' }]], mediaTypes: 'docker' }, null],
  ['with a manifest of 3.9 MB', padded, null],
  [
    'with a non-distributable layer that its registry has all the same',
    { layers: [{ entries: [{ path: 'a', content: 'a' }], mediaType: `${OCI}.layer.nondistributable.v1.tar+gzip` }] },
    null,
  ],
  ['that is an index of nothing', index([]), 'ERR_PLATFORM_NOT_FOUND'],
  [
    'with a manifest of 5 MB',
    image({ layers: [], manifestFields: { annotations: { padding: 'x'.repeat(5_000_000) } } }),
    'ERR_LIMIT',
  ],
  [
    'that is an artifact',
    { layers: [], configMediaType: 'application/vnd.cncf.helm.config.v1+json' },
    'ERR_UNSUPPORTED_MEDIA_TYPE',
  ],
  [
    'whose config names fewer layers',
    { layers: [[{ path: 'a', content: 'a' }]], configFields: { rootfs: { type: 'layers', diff_ids: [] } } },
    'ERR_CONFIG',
  ],
  ['whose config is no JSON', { layers: [], rawConfig: Buffer.from('nonsense') }, 'ERR_CONFIG'],
  ['that is an index too', { layers: [], manifestFields: { manifests: [] } }, 'ERR_MANIFEST'],
  [
    'that contradicts its media type',
    { layers: [], manifestFields: { mediaType: `${OCI}.index.v1+json` } },
    'ERR_MANIFEST',
  ],
  [
    'of schema 1',
    rawManifest({ schemaVersion: 1, fsLayers: [] }, { mediaType: `${DOCKER}.distribution.manifest.v1+prettyjws` }),
    'ERR_MANIFEST',
  ],
  ['that is a web page', rawManifest('<html>log in</html>', { mediaType: 'text/html' }), 'ERR_MANIFEST'],
];

describe('an image', () => {
  for (const [name, spec, code] of ODD) {
    it(`${name} is ${code === null ? 'pulled' : `refused with ${code}`}`, async (t) => {
      const server = await serve(t, WAY, { images: { 'app:1': spec } });
      const pulling = client(WAY).pull(server.reference('app:1'));
      if (code !== null) assert.equal((await failure(pulling)).code, code);
      else assert.equal((await pulling).layers.length, (await pulling).diffIds.length);
    });
  }
});
