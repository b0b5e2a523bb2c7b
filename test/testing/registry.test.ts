import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { after, before, test } from 'node:test';
import { digestOf, image, index, rawManifest, startRegistry, type TestRegistry } from '../../src/testing/index.js';
import { makeCertificates, whyNoCertificates } from '../support/certificates.js';
import { ask, json } from './ask.js';

const app = image({ layers: [[{ path: 'etc/motd', content: 'hello' }]], platform: 'linux/amd64' });
const layerOfApp = app.layers[0]!;
const many = index([{ image: app }, { image: { layers: [], platform: 'linux/arm64' } }]);

let registry: TestRegistry;
before(async () => {
  registry = await startRegistry({ images: { 'team/app:1': app, many } });
});
after(() => registry.close());

test('a manifest is served by tag and by either digest, with its type', async () => {
  for (const reference of ['1', app.digest, digestOf(app.bytes, 'sha512')]) {
    const answer = await ask(`${registry.url}/v2/team/app/manifests/${reference}`);
    assert.equal(answer.status, 200);
    assert.equal(answer.headers['content-type'], app.mediaType);
    assert.equal(answer.headers['docker-content-digest'], reference === '1' ? app.digest : reference);
    assert.deepEqual(answer.body, app.bytes);
  }
});

test('an index brings its images along', async () => {
  const answer = await ask(`${registry.url}/v2/many/manifests/latest`);
  assert.equal(answer.headers['content-type'], many.mediaType);
  for (const { digest, bytes } of many.manifests) {
    assert.deepEqual((await ask(`${registry.url}/v2/many/manifests/${digest}`)).body, bytes);
  }
  assert.deepEqual((await ask(`${registry.url}/v2/many/blobs/${layerOfApp.digest}`)).body, layerOfApp.bytes);
});

test('HEAD tells the length and sends nothing', async () => {
  const answer = await ask(`${registry.url}/v2/team/app/blobs/${layerOfApp.digest}`, { method: 'HEAD' });
  assert.equal(answer.headers['content-length'], String(layerOfApp.size));
  assert.equal(answer.body.length, 0);
  assert.equal(registry.requests.at(-1)?.bytesSent, 0);
});

test('ping and tags answer', async () => {
  const ping = await ask(`${registry.url}/v2/`);
  assert.deepEqual([ping.status, ping.headers['docker-distribution-api-version']], [200, 'registry/2.0']);
  const tags = await ask(`${registry.url}/v2/team/app/tags/list`);
  assert.deepEqual(json(tags), { name: 'team/app', tags: ['1'] });
});

test('what is not there is 404 with the protocol’s own codes', async () => {
  const codes: Record<string, string> = {
    '/v2/nobody/manifests/1': 'NAME_UNKNOWN',
    '/v2/team/app/manifests/2': 'MANIFEST_UNKNOWN',
    [`/v2/team/app/blobs/${digestOf(Buffer.from('x'))}`]: 'BLOB_UNKNOWN',
    [`/v2/team/app/blobs/${app.digest}`]: 'BLOB_UNKNOWN',
    '/elsewhere': 'NOT_FOUND',
  };
  for (const [path, code] of Object.entries(codes)) {
    const answer = await ask(registry.url + path);
    assert.equal(answer.status, 404, path);
    assert.equal((json(answer)['errors'] as { code: string }[])[0]?.code, code);
  }
  assert.equal((await ask(`${registry.url}/v2/team/app/manifests/1`, { method: 'DELETE' })).status, 405);
});

test('a Range is answered with that part and says which', async () => {
  const { bytes, size, digest } = layerOfApp;
  const cases: [string, number, number][] = [
    ['bytes=0-', 0, size - 1],
    ['bytes=5-', 5, size - 1],
    ['bytes=5-9', 5, 9],
    [`bytes=5-${size + 100}`, 5, size - 1],
    ['bytes=-3', size - 3, size - 1],
  ];
  for (const [range, from, to] of cases) {
    const answer = await ask(`${registry.url}/v2/team/app/blobs/${digest}`, { headers: { range } });
    assert.equal(answer.status, 206, range);
    assert.equal(answer.headers['content-range'], `bytes ${from}-${to}/${size}`);
    assert.deepEqual(answer.body, bytes.subarray(from, to + 1));
  }
  assert.equal(registry.requests.at(-1)?.range, 'bytes=-3');
});

test('a Range past the end is 416, and one that is none gets everything', async () => {
  const url = `${registry.url}/v2/team/app/blobs/${layerOfApp.digest}`;
  const past = await ask(url, { headers: { range: `bytes=${layerOfApp.size}-` } });
  assert.deepEqual([past.status, past.headers['content-range']], [416, `bytes */${layerOfApp.size}`]);
  for (const range of ['bytes=9-5', 'bytes=1-2,4-5', 'lines=1-2', 'bytes=-']) {
    assert.equal((await ask(url, { headers: { range } })).status, 200, range);
  }
});

test('raw manifests keep their bytes and their type, or have none', async () => {
  const { digest, reference } = registry.push('odd:1', rawManifest('{"half":', { mediaType: 'text/odd' }));
  assert.equal(reference, `${registry.host}/odd:1`);
  const odd = await ask(`${registry.url}/v2/odd/manifests/${digest}`);
  assert.deepEqual([odd.headers['content-type'], odd.body.toString()], ['text/odd', '{"half":']);
  registry.push(registry.reference('odd:2'), rawManifest({ a: 1 }, { contentType: null }));
  const bare = await ask(`${registry.url}/v2/odd/manifests/2`);
  assert.deepEqual([bare.headers['content-type'], bare.body.toString()], [undefined, '{"a":1}']);
});

test('tags, manifests and blobs can be taken away', async () => {
  registry.push('short:1', app);
  assert.equal(registry.remove('short:1'), true);
  assert.equal(registry.remove('short:1'), false);
  assert.equal((await ask(`${registry.url}/v2/short/manifests/1`)).status, 404);
  assert.equal((await ask(`${registry.url}/v2/short/manifests/${app.digest}`)).status, 200);
  assert.equal(registry.remove(`short@${app.digest}`), true);
  assert.equal((await ask(`${registry.url}/v2/short/manifests/${app.digest}`)).status, 404);
  assert.equal(registry.removeBlob('short', layerOfApp.digest), true);
  assert.equal((await ask(`${registry.url}/v2/short/blobs/${layerOfApp.digest}`)).status, 404);
  const lie = registry.addBlob('short', Buffer.from('other'), layerOfApp.digest);
  assert.equal((await ask(`${registry.url}/v2/short/blobs/${lie.digest}`)).body.toString(), 'other');
});

test('the log tells what was asked and what was sent', async () => {
  registry.requests.length = 0;
  const headers = { authorization: 'Bearer secret', range: 'bytes=2-' };
  await ask(`${registry.url}/v2/team/app/blobs/${layerOfApp.digest}?ns=docker.io`, { headers });
  const [request] = registry.requests;
  assert.ok(request);
  assert.deepEqual(
    [request.listener, request.method, request.path, request.kind, request.repository, request.digest],
    ['registry', 'GET', `/v2/team/app/blobs/${layerOfApp.digest}?ns=docker.io`, 'blob', 'team/app', layerOfApp.digest],
  );
  assert.deepEqual(request.authorization, { present: true, scheme: 'Bearer', raw: 'Bearer secret' });
  assert.deepEqual([request.status, request.bytesSent, request.finished], [206, layerOfApp.size - 2, true]);
});

test('connections are kept, counted, and ended by close', async () => {
  const own = await startRegistry({ images: { app } });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let turn = 0; turn < 5; turn++) await ask(`${own.url}/v2/app/manifests/latest`, { agent });
  assert.deepEqual(own.connections, { open: 1, peak: 1, total: 1 });
  await own.close();
  await own.close();
  assert.equal(own.connections.open, 0);
  await assert.rejects(ask(`${own.url}/v2/`), { code: 'ECONNREFUSED' });
  agent.destroy();
});

test('a port that is taken is an error', async () => {
  const port = Number(registry.host.split(':')[1]);
  await assert.rejects(startRegistry({ port }), { code: 'EADDRINUSE' });
});

test('a blob of a hundred megabytes arrives whole', async () => {
  const bytes = Buffer.alloc(100_000_000, 'large ');
  const { digest } = registry.addBlob('large', bytes);
  const answer = await ask(`${registry.url}/v2/large/blobs/${digest}`);
  assert.equal(digestOf(answer.body), digest);
  assert.equal(registry.requests.at(-1)?.bytesSent, bytes.length);
  registry.removeBlob('large', digest);
});

const noCertificates = whyNoCertificates() ?? false;

test(
  'over TLS it is trusted by those who trust the authority, and by nobody else',
  { skip: noCertificates },
  async () => {
    const certificates = makeCertificates();
    const own = await startRegistry({ images: { app }, tls: certificates });
    try {
      assert.match(own.url, /^https:\/\/127\.0\.0\.1:\d+$/);
      const answer = await ask(`${own.url}/v2/app/manifests/latest`, { ca: certificates.ca });
      assert.deepEqual(answer.body, app.bytes);
      const byName = own.url.replace('127.0.0.1', 'localhost');
      assert.equal((await ask(`${byName}/v2/`, { ca: certificates.ca })).status, 200);
      await assert.rejects(ask(`${own.url}/v2/`), { code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' });
    } finally {
      await own.close();
      certificates.remove();
    }
  },
);
