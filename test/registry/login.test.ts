/** Logins: which credential is shown to whom, and what is said when it is not taken. */
import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { RegistryAuth, RegistryOptions } from 'microsandbox-image';
import { startRegistry, type AuthOptions, type TestRegistry } from 'microsandbox-image/testing';
import { scratch } from '../support/scratch.js';
import { client, failure, pullRight, serve, WAYS } from './serving.js';

const PASSWORD = 'hunter2-hunter2';
const ME = { username: 'me', password: PASSWORD };
const USERS = { me: PASSWORD };

/** A Docker config file with this content. */
function configFile(content: object): string {
  const path = join(scratch('docker'), 'config.json');
  writeFileSync(path, JSON.stringify(content));
  return path;
}

function stored(host: string, { username, password } = ME): RegistryOptions {
  const auth = Buffer.from(`${username}:${password}`).toString('base64');
  return { credentials: configFile({ auths: { [host]: { auth } } }) };
}

const RIGHT: [string, AuthOptions, (server: TestRegistry) => RegistryOptions][] = [
  ['Basic', { type: 'basic', users: USERS }, () => ({ auth: ME })],
  ['tokens', { type: 'bearer', users: USERS }, () => ({ auth: ME })],
  [
    'tokens of another host',
    { type: 'bearer', users: USERS, separateHost: true },
    (server) => ({ auth: ME, insecure: [new URL(server.tokenUrl).host] }),
  ],
  ['anonymous tokens', { type: 'bearer' }, () => ({})],
  [
    'a token of its own',
    { type: 'bearer', users: USERS, registryTokens: ['own-token'] },
    () => ({ auth: { token: 'own-token' } }),
  ],
  [
    'answers that say access_token',
    { type: 'bearer', users: USERS, field: 'access_token', tellLife: false },
    () => ({ auth: ME }),
  ],
  ['tokens good for two requests', { type: 'bearer', users: USERS, tokenUses: 2 }, () => ({ auth: ME })],
  [
    'a function that is asked by host',
    { type: 'basic', users: USERS },
    (server) => ({ auth: (host) => (host === server.host ? ME : null) }),
  ],
  [
    'a function that passes on to a file',
    { type: 'basic', users: USERS },
    (server) => ({ ...stored(server.host), auth: () => null }),
  ],
  ['a login in a file', { type: 'bearer', users: USERS }, (server) => stored(server.host)],
  [
    'a login stored with scheme and path',
    { type: 'basic', users: USERS },
    (server) => stored(`https://${server.host}/v2/`),
  ],
  [
    'an identity token in a file',
    { type: 'bearer', users: USERS, identityTokens: { 'identity-1': 'me' } },
    (server) => ({ credentials: configFile({ auths: { [server.host]: { identitytoken: 'identity-1' } } }) }),
  ],
  [
    'several challenges in one header',
    {
      type: 'bearer',
      users: USERS,
      challenge: ({ realm, service, scope }) =>
        `Negotiate,  basic realm="a, b" ,BEARER  Realm = "${realm}",service="${service}" ,scope="${scope}"`,
    },
    () => ({ auth: ME }),
  ],
  [
    'several headers',
    {
      type: 'bearer',
      users: USERS,
      challenge: ({ realm, scope }) => ['Negotiate', `Bearer realm="${realm}",scope="${scope}"`],
    },
    () => ({ auth: ME }),
  ],
];

for (const { name: way, skip } of WAYS) {
  describe(`a login over ${way}`, { skip }, () => {
    for (const [name, auth, options] of RIGHT) {
      it(`works with ${name}`, async (t) => {
        const server = await serve(t, way, { auth });
        await pullRight(client(way, options(server)), server);
      });
    }

    it('asks for one token, and for one more when it runs out', async (t) => {
      const server = await serve(t, way, { auth: { type: 'bearer', users: USERS } });
      const registry = client(way, { auth: ME });
      const tokens = (): number => server.requests.filter(({ kind }) => kind === 'token').length;
      await pullRight(registry, server);
      assert.equal(tokens(), 1);
      server.expireTokens();
      await registry.pull(server.reference('app:1'), { policy: 'always' });
      assert.equal(tokens(), 2);
    });

    it('asks a function once, for one token over one connection, however often it pulls', async (t) => {
      const server = await serve(t, way, { auth: { type: 'bearer', users: USERS } });
      let asked = 0;
      const registry = client(way, { auth: () => ((asked += 1), Promise.resolve(ME)) });
      for (let pulls = 0; pulls < 6; pulls += 1) await registry.resolve(server.reference('app:1'));
      assert.equal(asked, 1);
      assert.equal(server.requests.filter(({ kind }) => kind === 'token').length, 1);
      await Promise.all(Array.from({ length: 4 }, () => registry.pull(server.reference('app:1'))));
      assert.equal(asked, 1);
    });

    it('is followed by one try without it when it was stored and is not taken', async (t) => {
      const auth: AuthOptions = { type: 'bearer', users: USERS, anonymous: true };
      const server = await serve(t, way, { auth });
      await pullRight(client(way, stored(server.host, { ...ME, password: 'stale-stale' })), server);
      const tokens = server.requests.filter(({ kind }) => kind === 'token');
      assert.deepEqual(
        tokens.map(({ authorization }) => authorization.present),
        [true, false],
      );
    });

    it('that is not taken is told with the next step, and nothing secret', async (t) => {
      const server = await serve(t, way, { auth: { type: 'bearer', users: USERS } });
      const wrong: RegistryAuth = { username: 'me', password: 'wrong-wrong-wrong' };
      for (const [options, words] of [
        [{}, `docker login ${server.host}`],
        [{ auth: wrong }, 'option auth'],
        [stored(server.host, wrong), 'stored login was rejected'],
      ] as [RegistryOptions, string][]) {
        const error = await failure(client(way, options).pull(server.reference('app:1')));
        assert.equal(error.code, 'ERR_UNAUTHORIZED');
        assert.ok(error.message.includes(words), error.message);
        assert.ok(error.message.includes(server.host), error.message);
        const shown = `${error.message} ${error.stack ?? ''} ${JSON.stringify(error)}`;
        assert.ok(
          !shown.includes('wrong-wrong') && !shown.includes(Buffer.from('me:wrong').toString('base64').slice(0, 10)),
        );
      }
    });

    it('is not shown to the server a redirect leads to', async (t) => {
      const storage = await serve(t, way);
      const server = await serve(t, way, {
        auth: { type: 'basic', users: USERS },
        faults: [{ on: 'blob', do: 'redirect', to: (path) => `${storage.url}${path}?signature=secret` }],
      });
      await pullRight(client(way, { auth: ME }), server);
      assert.ok(storage.requests.length >= 2);
      assert.ok(storage.requests.every(({ authorization }) => !authorization.present));
    });

    it('is not answered to a server that a redirect leads to and that asks for one', async (t) => {
      const thief = await serve(t, way, { auth: { type: 'bearer', users: {} } });
      const server = await serve(t, way, {
        auth: { type: 'basic', users: USERS },
        faults: [{ on: 'blob', do: 'redirect', to: (path) => `${thief.url}${path}` }],
      });
      await failure(client(way, { auth: ME, retries: 0 }).pull(server.reference('app:1')));
      assert.ok(thief.requests.every(({ authorization, kind }) => !authorization.present && kind !== 'token'));
    });

    it('is not sent to a realm of another trust', async (t) => {
      for (const realm of [
        'http://token.example/token',
        'ftp://token.example/',
        'nonsense',
        'https://a:b@token.example/',
      ]) {
        const server = await serve(t, way, { auth: { type: 'bearer', users: USERS, realm } });
        const error = await failure(client(way, { auth: ME }).pull(server.reference('app:1')));
        assert.equal(error.code, 'ERR_UNAUTHORIZED', realm);
        assert.match(error.message, /not trusted/);
      }
    });
  });
}

describe('a credential helper', () => {
  it('is asked for its own host, and its failure is an error for that host alone', async (t) => {
    const bin = scratch('helpers');
    const helper = (name: string, script: string): void => {
      writeFileSync(join(bin, `docker-credential-${name}`), `#!/bin/sh\n${script}\n`);
      chmodSync(join(bin, `docker-credential-${name}`), 0o755);
    };
    helper('good', `read host; echo '{"ServerURL":"x","Username":"me","Secret":"${PASSWORD}"}'`);
    helper('none', 'echo "credentials not found in native keychain"; exit 1');
    helper('bad', 'echo oops >&2; exit 3');
    helper('odd', 'echo no json');
    const path = process.env['PATH'];
    process.env['PATH'] = `${bin}:${path ?? ''}`;
    t.after(() => {
      process.env['PATH'] = path;
    });
    const closed = await serve(t, 'plain HTTP', { auth: { type: 'basic', users: USERS } });
    const open = await startRegistry({ images: { 'app:1': { layers: [] } } });
    t.after(() => open.close());
    for (const [name, words] of [
      ['good', ''],
      ['none', 'docker login'],
      ['bad', 'docker-credential-bad'],
      ['odd', 'docker-credential-odd'],
      ['missing', 'not installed'],
    ]) {
      const options = { credentials: configFile({ credHelpers: { [closed.host]: name } }) };
      await client('plain HTTP', options).pull(open.reference('app:1'));
      if (words === '') {
        await pullRight(client('plain HTTP', options), closed);
        continue;
      }
      const error = await failure(client('plain HTTP', options).pull(closed.reference('app:1')));
      assert.equal(error.code, 'ERR_UNAUTHORIZED', name);
      assert.ok(error.message.includes(words ?? ''), error.message);
    }
  });
});
