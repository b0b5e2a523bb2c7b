/**
 * Real images from a real registry: everything here is made by other people's programs (tar, zstd, skopeo,
 * docker-registry).
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Registry } from 'microsandbox-image';
import { tar } from 'microsandbox-image/testing';
import { addToLayout } from '../support/oci-layout.js';
import { has, must } from '../support/programs.js';
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js';
import { scratch } from '../support/scratch.js';
import { readTree, type TreeEntry } from '../support/trees.js';

const missing = ['docker-registry', 'skopeo', 'python3', 'zstd'].filter((program) => !has(program));
if (missing.length > 0 && process.env['CI'] !== undefined) throw new Error(`CI lacks ${missing.join(', ')}`);
const skip = missing.length > 0 && `not installed: ${missing.join(', ')}`;

// bcrypt of "secret".
const HTPASSWD = 'tester:$2b$05$.N3S3qzPnouW7nCTTGPsxuhZ1tMy59IBLt4j.F7UAlgfc6cxjmWXu\n';

describe('images from docker-registry', { skip }, () => {
  const directory = scratch('real-images');
  let server: RealRegistry;
  before(async () => {
    server = await startRealRegistry({ directory: join(directory, 'registry') });
  });
  after(() => server.stop());

  const cacheOf = (name: string): Registry => new Registry({ cache: join(directory, name), credentials: 'none' });

  it('an image of forty layers has them all, in order', async () => {
    const layout = join(directory, 'forty-layout');
    const layers = Array.from({ length: 40 }, (_, at) => ({ tar: tar([{ path: 'top', content: String(at) }]) }));
    addToLayout(layout, 'forty', layers);
    await server.push(layout, 'forty', 'forty:1');
    const { layers: pulled, diffIds } = await cacheOf('forty').pull(`${server.host}/forty:1`);
    assert.deepEqual(
      diffIds,
      layers.map(({ tar: bytes }) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`),
    );
    const tops = await Promise.all(pulled.map((layer) => must('cat', [join(layer, 'top')])));
    assert.deepEqual(
      tops,
      layers.map((_, at) => String(at)),
    );
  });

  it('layers that zstd made and those that skopeo wrote in Docker types give the trees of their OCI twins', async () => {
    const archive = join(directory, 'twin.tar');
    await must('tar', ['-C', join(process.cwd(), 'src'), '-cf', archive, '.']);
    await must('zstd', ['-q', '-19', archive]);
    const plain = { tar: readFileSync(archive) };
    const zstd = {
      ...plain,
      blob: readFileSync(`${archive}.zst`),
      mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd',
    };
    const layout = join(directory, 'twin-layout');
    addToLayout(layout, 'gzip', [plain]);
    addToLayout(layout, 'zstd', [zstd]);
    await server.push(layout, 'gzip', 'twin:gzip');
    await server.push(layout, 'zstd', 'twin:zstd');
    const host = `docker://${server.host}/twin`;
    await must('skopeo', [
      ...['copy', '--quiet', '--src-tls-verify=false', '--dest-tls-verify=false', '--format', 'v2s2'],
      ...[`${host}:gzip`, `${host}:docker`],
    ]);
    const trees = [];
    for (const tag of ['gzip', 'zstd', 'docker']) {
      const { layers } = await cacheOf(`twin-${tag}`).pull(`${server.host}/twin:${tag}`);
      trees.push(withoutInodes(await readTree(layers[0] ?? '')));
    }
    assert.ok(Object.keys(trees[0] ?? {}).length > 20);
    assert.deepEqual(trees[1], trees[0]);
    assert.deepEqual(trees[2], trees[0]);
  });
});

describe('docker-registry in its other roles', { skip }, () => {
  const directory = scratch('real-roles');
  const servers: RealRegistry[] = [];
  after(() => Promise.all(servers.map((server) => server.stop())));

  async function start(name: string, options: { htpasswd?: string; proxyOf?: string } = {}): Promise<RealRegistry> {
    const server = await startRealRegistry({ directory: join(directory, name), ...options });
    servers.push(server);
    return server;
  }
  const layout = join(directory, 'layout');
  before(() => {
    addToLayout(layout, 'app', [{ tar: tar([{ path: 'motd', content: 'hello' }]) }]);
  });

  it('with a password file it lets in who is in it and nobody else', async () => {
    const server = await start('locked', { htpasswd: HTPASSWD });
    await server.push(layout, 'app', 'app:1', 'tester:secret');
    const reference = `${server.host}/app:1`;
    const pullWith = async (password: string): Promise<unknown> => {
      const auth = { username: 'tester', password };
      const cache = join(directory, `cache-${password}`);
      return new Registry({ cache, auth }).pull(reference);
    };
    await assert.rejects(pullWith('wrong'), { code: 'ERR_UNAUTHORIZED' });
    assert.equal(((await pullWith('secret')) as { layers: string[] }).layers.length, 1);
  });

  it('as a pull-through cache it serves as a mirror of another registry, also when that is gone', async () => {
    const origin = await start('origin');
    await origin.push(layout, 'app', 'app:1');
    const mirror = await start('mirror', { proxyOf: origin.url });
    const mirrors = { [origin.host]: [mirror.url] };
    const reference = `${origin.host}/app:1`;
    const first = await new Registry({ cache: join(directory, 'through'), mirrors, credentials: 'none' }).pull(
      reference,
    );
    assert.equal(first.layers.length, 1);
    // It keeps what it fetched after it has answered.
    const kept = join(directory, 'mirror', 'blobs/docker/registry/v2/repositories/app/_layers/sha256');
    for (const digest of [first.configDigest, ...first.layerDigests])
      await appears(join(kept, digest.slice(7), 'link'));
    await origin.stop();
    const second = await new Registry({ cache: join(directory, 'gone'), mirrors, credentials: 'none' }).pull(reference);
    assert.equal(second.manifestDigest, first.manifestDigest);
  });

  it('killed and started again it is asked again', async () => {
    const server = await start('killed');
    await server.push(layout, 'app', 'app:1');
    await server.kill();
    const pull = new Registry({ cache: join(directory, 'killed-cache'), credentials: 'none' }).pull(
      `${server.host}/app:1`,
    );
    setTimeout(() => void server.start(), 300);
    assert.equal((await pull).layers.length, 1);
  });
});

async function appears(file: string): Promise<void> {
  for (let attempt = 0; !existsSync(file); attempt++) {
    assert.ok(attempt < 500, `${file} does not appear`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function withoutInodes(tree: Map<string, TreeEntry>): Record<string, Omit<TreeEntry, 'inode'>> {
  return Object.fromEntries([...tree].map(([path, entry]) => [path, { ...entry, inode: undefined }]));
}
