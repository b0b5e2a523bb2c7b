// The black-box suite: one program, the same under every runtime. Started with the address of a registry, a cache
// directory, and `plain` or the PEM file of the registry's authority; prints the name of each check that passed.
// Nothing in it ends the process: that it ends is itself what the tests look at.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { GlobalCache, ImageError, LayerIndex, parsePlatform, readStat, Reference, Registry } from 'microsandbox-image';

const [host, directory, ca] = process.argv.slice(2);
const reference = `${host}/app:1`;
const trust = ca === 'plain' ? {} : { caCertificates: readFileSync(ca) };
const registry = new Registry({ cache: directory, credentials: 'none', ...trust });

const checks = {
  async 'parses what it is given'() {
    assert.equal(Reference.parse('alpine').toString(), 'docker.io/library/alpine:latest');
    assert.deepEqual(parsePlatform('linux/aarch64'), { os: 'linux', architecture: 'arm64' });
    assert.throws(() => new Registry({ cache: 7 }), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
  },
  async 'pulls with progress'() {
    assert.equal(registry.pullCached(reference), null);
    const pull = registry.pull(reference);
    const types = [];
    for await (const event of pull) types.push(event.type);
    assert.deepEqual([types[0], types.at(-1)], ['resolving', 'complete']);
    const { layers, config } = await pull;
    assert.equal(readFileSync(join(layers[0], 'etc/motd'), 'utf8'), 'hello');
    assert.deepEqual(config.env, ['A=1']);
    assert.deepEqual(readStat(join(layers[0], 'etc/motd')), { uid: 1000, gid: 100, mode: 0o100640, rdev: 0 });
  },
  async 'answers from the cache'() {
    const hit = registry.pullCached(reference);
    assert.equal(hit.cached, true);
    assert.ok(new GlobalCache(directory).allLayersExtracted(hit.layerDigests));
    const index = LayerIndex.open(registry.cache.layerIndexPath(hit.layerDigests[0]));
    const entry = index.lookup('etc/motd');
    assert.deepEqual([entry.uid, entry.size, typeof entry.inode], [1000, 5, 'bigint']);
    index.close();
  },
  async 'tells errors by code'() {
    const failed = await registry.pull(`${host}/none:1`).catch((error) => error);
    assert.ok(failed instanceof ImageError, String(failed));
    assert.equal(failed.code, 'ERR_NOT_FOUND');
    assert.equal((await registry.pull(`${host}/none:1`, { policy: 'never' }).catch((e) => e)).code, 'ERR_NOT_CACHED');
  },
  async 'asks a callback for credentials'() {
    const asked = [];
    const auth = async (name) => {
      asked.push(name);
      return { username: 'user', password: 'secret' };
    };
    const other = new Registry({ cache: `${directory}-login`, credentials: 'none', auth, ...trust });
    await other.resolve(reference);
    assert.ok(asked.every((name) => name === host));
  },
  async 'stops with the reason of a signal'() {
    const other = new Registry({ cache: `${directory}-abort`, credentials: 'none', ...trust });
    const controller = new AbortController();
    const pull = other.pull(`${host}/slow:1`, { signal: controller.signal });
    setTimeout(() => controller.abort(new Error('enough')), 100);
    await assert.rejects(pull, { message: 'enough' });
    assert.equal(other.pullCached(`${host}/slow:1`), null);
  },
  async 'stops when the loop is left'() {
    const other = new Registry({ cache: `${directory}-left`, credentials: 'none', ...trust });
    const pull = other.pull(`${host}/slow:1`);
    for await (const event of pull) if (event.type === 'resolved') break;
    assert.equal((await pull.catch((error) => error)).code, 'ERR_ABORTED');
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(name);
}
