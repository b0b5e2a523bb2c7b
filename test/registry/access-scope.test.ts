/** Tenants with logins of their own who share a cache. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { plan, pull, Registry } from 'microsandbox-image';
import { layer, startRegistry } from 'microsandbox-image/testing';
import { scratch } from '../support/scratch.js';
import { failure } from './serving.js';

describe('accessScope', () => {
  it('answers a tenant only what its own login may have', async (t) => {
    const users = { alice: 'secret-of-alice', bob: 'secret-of-bob' };
    const secret = layer([{ path: 'secret', content: 'of alice' }]);
    const server = await startRegistry({
      images: { 'app:1': { layers: [secret] } },
      auth: { type: 'basic', users },
    });
    t.after(() => server.close());
    const [cache, reference] = [scratch('access-scope'), server.reference('app:1')];
    const tenant = (username: 'alice' | 'bob', password: string = users[username]): Registry =>
      new Registry({ cache, accessScope: username, auth: { username, password }, retries: 0 });
    const { layers } = await tenant('alice').pull(reference);

    const stranger = tenant('bob', 'wrong');
    assert.equal(stranger.pullCached(reference), null);
    assert.equal((await failure(stranger.pull(reference))).code, 'ERR_UNAUTHORIZED');
    assert.equal((await failure(stranger.plan(reference))).code, 'ERR_UNAUTHORIZED');
    assert.equal((await failure(stranger.pull(reference, { policy: 'never' }))).code, 'ERR_NOT_CACHED');

    const before = server.requests.length;
    const pulled = await tenant('bob').pull(reference);
    assert.deepEqual([pulled.cached, pulled.layers], [true, layers]);
    const asked = server.requests.slice(before).filter(({ path }) => path.includes(secret.digest));
    assert.ok(asked.length > 0 && asked.every(({ method }) => method === 'HEAD'), 'the layer was not fetched');

    const after = server.requests.length;
    assert.deepEqual(tenant('bob').pullCached(reference)?.layers, layers);
    assert.equal((await tenant('bob').pull(reference)).cached, true);
    assert.equal((await tenant('bob').plan(reference)).cached, true);
    assert.equal(server.requests.length, after);
    assert.equal(tenant('bob').pullCached(server.reference('app:2')), null);
  });

  it('is a name, not an empty text', () => {
    const [reference, cache] = ['127.0.0.1:1/app:1', '/nowhere'];
    const invalid = { code: 'ERR_INVALID_OPTION' };
    assert.throws(() => new Registry({ cache, accessScope: '' }), invalid);
    assert.throws(() => pull(reference, { cache, accessScope: '' }), invalid);
    assert.throws(() => void plan(reference, { cache, accessScope: '' }), invalid);
    for (const accessScope of [null, 7, ['a']] as unknown as string[]) {
      assert.throws(() => new Registry({ cache, accessScope }), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
    }
  });
});
