import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { canPackZstd, digestOf, image, index, layer, rawManifest, tar } from '../../src/testing/index.js';

const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const parse = (bytes: Buffer) => JSON.parse(bytes.toString()) as Record<string, never>;
const files = [{ path: 'etc/motd', content: 'hello' }];

test('an image names its layers by the digests of blob and tar', () => {
  const built = image({ layers: [files], config: { Env: ['A=1'] }, platform: 'linux/arm64/v8' });
  const [only] = built.layers;
  assert.ok(only);
  assert.equal(only.digest, sha256(only.bytes));
  assert.equal(only.diffId, sha256(gunzipSync(only.bytes)));
  assert.equal(built.digest, sha256(built.bytes));
  assert.equal(built.config.digest, sha256(built.config.bytes));
  assert.deepEqual(parse(built.bytes), {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: built.config.digest,
      size: built.config.bytes.length,
    },
    layers: [
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: only.digest, size: only.bytes.length },
    ],
  });
  const config = parse(built.config.bytes) as Record<string, unknown>;
  assert.deepEqual(
    [config['os'], config['architecture'], config['variant'], config['config'], config['rootfs']],
    ['linux', 'arm64', 'v8', { Env: ['A=1'] }, { type: 'layers', diff_ids: [only.diffId] }],
  );
});

test('the same specification gives the same bytes', () => {
  const build = () => image({ layers: [files, { entries: files, compression: 'gzip-multi-member' }] });
  assert.equal(build().digest, build().digest);
});

test('media types follow the family and the compression', () => {
  const types = (mediaTypes: 'oci' | 'docker') => {
    const built = image({ mediaTypes, layers: [files, { entries: files, compression: 'none' }] });
    return [built.mediaType, built.config.mediaType, ...built.layers.map((each) => each.mediaType)];
  };
  assert.deepEqual(types('oci'), [
    'application/vnd.oci.image.manifest.v1+json',
    'application/vnd.oci.image.config.v1+json',
    'application/vnd.oci.image.layer.v1.tar+gzip',
    'application/vnd.oci.image.layer.v1.tar',
  ]);
  assert.deepEqual(types('docker'), [
    'application/vnd.docker.distribution.manifest.v2+json',
    'application/vnd.docker.container.image.v1+json',
    'application/vnd.docker.image.rootfs.diff.tar.gzip',
    'application/vnd.docker.image.rootfs.diff.tar',
  ]);
});

test('a layer of several gzip members unpacks to the one tar', () => {
  const archive = tar([{ path: 'f', content: Buffer.alloc(100_000, 'abc') }]);
  const one = layer({ tar: archive });
  const several = layer({ tar: archive, compression: 'gzip-multi-member' });
  assert.deepEqual(gunzipSync(several.bytes), archive);
  assert.equal(several.diffId, one.diffId);
  assert.notEqual(several.digest, one.digest);
});

const noZstd = spawnSync('zstd', ['--version']).status === 0 ? false : 'zstd is not installed';

test('a ready zstd blob is served as it is', { skip: noZstd }, () => {
  const archive = tar(files);
  const blob = spawnSync('zstd', ['-c'], { input: archive }).stdout;
  const built = layer({ tar: archive, blob });
  assert.equal(built.diffId, sha256(archive));
  assert.equal(built.bytes, blob);
  assert.equal(built.mediaType, 'application/vnd.oci.image.layer.v1.tar+zstd');
  assert.throws(() => layer({ blob }), /needs its `diffId`/);
});

test('zstd is packed where this Node can, and refused plainly where it cannot', () => {
  const pack = () => layer({ entries: files, compression: 'zstd' });
  if (canPackZstd()) assert.equal(pack().bytes.readUInt32LE(0), 0xfd2fb528);
  else assert.throws(pack, /zstd needs Node 22\.15 or newer/);
});

test('an index lists platforms, may nest, and may list what is not there', () => {
  const amd = image({ layers: [files], platform: 'linux/amd64' });
  const arm = image({ layers: [files], platform: 'linux/arm64' });
  const inner = index([{ image: arm }]);
  const outer = index(
    [{ image: amd, annotations: { a: 'b' } }, { image: inner }, { image: arm, platform: null, missing: true }],
    { mediaTypes: 'docker' },
  );
  assert.equal(outer.mediaType, 'application/vnd.docker.distribution.manifest.list.v2+json');
  assert.deepEqual(outer.manifests, [amd, inner]);
  assert.deepEqual(parse(outer.bytes)['manifests'], [
    {
      mediaType: amd.mediaType,
      digest: amd.digest,
      size: amd.size,
      platform: { os: 'linux', architecture: 'amd64' },
      annotations: { a: 'b' },
    },
    { mediaType: inner.mediaType, digest: inner.digest, size: inner.size },
    { mediaType: arm.mediaType, digest: arm.digest, size: arm.size },
  ]);
});

test('every document can be made to say something else', () => {
  const built = image({
    layers: [{ entries: files, diffId: 'sha256:wrong', digestAlgorithm: 'sha512', mediaType: 'x/y', urls: ['u:1'] }],
    rawConfig: Buffer.from('not json'),
    configMediaType: 'c/c',
    manifestFields: { schemaVersion: 1, mediaType: undefined, artifactType: 'a/a' },
  });
  const manifest = parse(built.bytes) as Record<string, unknown>;
  const [only] = built.layers;
  assert.ok(only);
  assert.match(only.digest, /^sha512:[0-9a-f]{128}$/);
  assert.deepEqual(manifest['layers'], [{ mediaType: 'x/y', digest: only.digest, size: only.size, urls: ['u:1'] }]);
  assert.deepEqual(manifest['config'], { mediaType: 'c/c', digest: digestOf(Buffer.from('not json')), size: 8 });
  assert.equal(manifest['artifactType'], 'a/a');
  assert.ok(!('mediaType' in manifest));
  assert.equal(rawManifest('{', { mediaType: 'm/m' }).digest, sha256(Buffer.from('{')));
});

test('a platform of one word is refused', () => {
  assert.throws(() => image({ layers: [], platform: 'linux' }), /not a platform: linux/);
});
