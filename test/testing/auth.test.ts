import assert from 'node:assert/strict';
import { test } from 'node:test';
import { image, startRegistry, type AuthOptions, type TestRegistry } from '../../src/testing/index.js';
import { ask, json, type Answer } from './ask.js';

const app = image({ layers: [] });

async function withRegistry(auth: AuthOptions, use: (registry: TestRegistry) => Promise<void>): Promise<void> {
  const registry = await startRegistry({ images: { app, 'team/secret': app }, auth });
  try {
    await use(registry);
  } finally {
    await registry.close();
  }
}

const basic = (login: string) => ({ authorization: `Basic ${Buffer.from(login).toString('base64')}` });
const bearer = (token: unknown) => ({ authorization: `Bearer ${String(token)}` });
const challengeOf = (answer: Answer) => answer.headers['www-authenticate'];
const pull = (registry: TestRegistry, headers: Record<string, string>, name = 'app') =>
  ask(`${registry.url}/v2/${name}/manifests/latest`, { headers });

/** What the token server answers to a GET for one or more repositories. */
async function tokenFor(registry: TestRegistry, names: string[], headers: Record<string, string> = {}, extra = '') {
  const scopes = names.map((name) => `scope=${encodeURIComponent(`repository:${name}:pull`)}`).join('&');
  return ask(`${registry.tokenUrl}?service=test-registry&${scopes}${extra}`, { headers });
}

function post(registry: TestRegistry, form: Record<string, string>): Promise<Answer> {
  const body = new URLSearchParams(form).toString();
  const headers = { 'content-type': 'application/x-www-form-urlencoded' };
  return ask(registry.tokenUrl, { method: 'POST', headers, body });
}

test('Basic asks for a login and takes the right one only', async () => {
  await withRegistry({ type: 'basic', users: { ann: 'p:w' }, realm: 'here' }, async (registry) => {
    const refused = await pull(registry, {});
    assert.deepEqual([refused.status, challengeOf(refused)], [401, 'Basic realm="here"']);
    assert.equal((json(refused)['errors'] as { code: string }[])[0]?.code, 'UNAUTHORIZED');
    assert.equal((await pull(registry, basic('ann:wrong'))).status, 401);
    assert.equal((await pull(registry, basic('constructor:x'))).status, 401);
    assert.equal((await pull(registry, basic('ann:p:w'))).status, 200);
  });
});

test('Bearer names realm, service and scope, and lets a token in', async () => {
  await withRegistry({ type: 'bearer' }, async (registry) => {
    const refused = await pull(registry, {});
    assert.equal(refused.status, 401);
    assert.equal(
      challengeOf(refused),
      `Bearer realm="${registry.url}/token",service="test-registry",scope="repository:app:pull"`,
    );
    const answer = json(await tokenFor(registry, ['app']));
    assert.equal(answer['expires_in'], 300);
    assert.equal(answer['token'], answer['access_token']);
    assert.equal((await pull(registry, bearer(answer['token']))).status, 200);
    assert.equal(registry.requests.find(({ kind }) => kind === 'token')?.authorization.present, false);
  });
});

test('a token opens only what it was asked for', async () => {
  await withRegistry({ type: 'bearer' }, async (registry) => {
    const { token } = json(await tokenFor(registry, ['app']));
    const other = await pull(registry, bearer(token), 'team/secret');
    assert.equal(other.status, 401);
    assert.match(challengeOf(other) ?? '', /scope="repository:team\/secret:pull",error="insufficient_scope"$/);
    const both = json(await tokenFor(registry, ['app', 'team/secret']));
    assert.equal((await pull(registry, bearer(both['token']), 'team/secret')).status, 200);
    assert.match(challengeOf(await pull(registry, bearer('made-up'))) ?? '', /error="invalid_token"$/);
  });
});

test('what is not public needs a user, and a wrong password gets no token', async () => {
  const auth: AuthOptions = { type: 'bearer', users: { ann: 'pw' }, anonymous: ['app'] };
  await withRegistry(auth, async (registry) => {
    const anonymous = json(await tokenFor(registry, ['app', 'team/secret']));
    assert.equal((await pull(registry, bearer(anonymous['token']))).status, 200);
    assert.equal((await pull(registry, bearer(anonymous['token']), 'team/secret')).status, 401);
    const known = json(await tokenFor(registry, ['team/secret'], basic('ann:pw')));
    assert.equal((await pull(registry, bearer(known['token']), 'team/secret')).status, 200);
    assert.equal((await tokenFor(registry, ['app'], basic('ann:no'))).status, 401);
  });
});

test('tokens end by time, by use, and when they are told to', async () => {
  await withRegistry({ type: 'bearer', tokenLifeMs: 60 }, async (registry) => {
    const { token, expires_in: life } = json(await tokenFor(registry, ['app']));
    assert.equal(life, 1);
    assert.equal((await pull(registry, bearer(token))).status, 200);
    await new Promise((resolve) => setTimeout(resolve, 80));
    assert.equal((await pull(registry, bearer(token))).status, 401);
  });
  await withRegistry({ type: 'bearer', tokenUses: 2 }, async (registry) => {
    const { token } = json(await tokenFor(registry, ['app']));
    const statuses = [];
    for (let turn = 0; turn < 3; turn++) statuses.push((await pull(registry, bearer(token))).status);
    assert.deepEqual(statuses, [200, 200, 401]);
  });
  await withRegistry({ type: 'bearer' }, async (registry) => {
    const { token } = json(await tokenFor(registry, ['app']));
    registry.expireTokens();
    assert.equal((await pull(registry, bearer(token))).status, 401);
  });
});

test('the OAuth2 POST takes passwords and identity tokens', async () => {
  const auth: AuthOptions = { type: 'bearer', users: { ann: 'pw' }, identityTokens: { 'id-1': 'ann' } };
  await withRegistry(auth, async (registry) => {
    const scope = 'repository:team/secret:pull';
    const refreshed = json(await post(registry, { grant_type: 'refresh_token', refresh_token: 'id-1', scope }));
    assert.equal((await pull(registry, bearer(refreshed['access_token']), 'team/secret')).status, 200);
    assert.equal(refreshed['refresh_token'], 'id-1');
    assert.match(registry.requests[0]?.body ?? '', /refresh_token=id-1/);
    const login = { grant_type: 'password', username: 'ann', password: 'pw', access_type: 'offline', scope };
    const offline = json(await post(registry, login));
    const again = await post(registry, {
      grant_type: 'refresh_token',
      refresh_token: String(offline['refresh_token']),
      scope,
    });
    assert.equal(again.status, 200);
    assert.equal((await post(registry, { ...login, password: 'no' })).status, 401);
    assert.equal((await post(registry, { grant_type: 'refresh_token', refresh_token: 'no', scope })).status, 401);
    const byGet = json(await tokenFor(registry, ['app'], basic('ann:pw'), '&offline_token=true'));
    assert.match(String(byGet['refresh_token']), /^identity-/);
  });
  await withRegistry({ ...auth, oauth2: false }, async (registry) => {
    assert.equal((await post(registry, { grant_type: 'refresh_token', refresh_token: 'id-1' })).status, 404);
  });
});

test('the token server may be another host, and the realm a lie', async () => {
  await withRegistry({ type: 'bearer', separateHost: true }, async (registry) => {
    assert.notEqual(new URL(registry.tokenUrl).host, registry.host);
    const { token } = json(await tokenFor(registry, ['app']));
    assert.equal((await pull(registry, bearer(token))).status, 200);
    assert.deepEqual(
      registry.requests.map((request) => request.listener),
      ['tokens', 'registry'],
    );
  });
  await withRegistry({ type: 'bearer', realm: 'http://elsewhere/t' }, async (registry) => {
    assert.match(challengeOf(await pull(registry, {})) ?? '', /^Bearer realm="http:\/\/elsewhere\/t",/);
  });
});

test('answers of other shapes: one name, no life, ready tokens, challenges in any spelling', async () => {
  const auth: AuthOptions = {
    type: 'bearer',
    field: 'access_token',
    tellLife: false,
    registryTokens: ['ready'],
    challenge: ({ realm, scope = '' }) => `Basic realm=x,  BEARER  Realm = "${realm}" ,scope="${scope}"`,
  };
  await withRegistry(auth, async (registry) => {
    assert.equal((await pull(registry, bearer('ready'), 'team/secret')).status, 200);
    assert.deepEqual(Object.keys(json(await tokenFor(registry, ['app']))), ['access_token']);
    assert.equal(
      challengeOf(await pull(registry, {})),
      `Basic realm=x,  BEARER  Realm = "${registry.tokenUrl}" ,scope="repository:app:pull"`,
    );
  });
});
