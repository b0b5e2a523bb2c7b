import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { image, startRegistry, type Fault, type TestRegistry } from '../../src/testing/index.js';
import { ask, json, type Question } from './ask.js';

const app = image({
  layers: [{ entries: [{ path: 'f', content: Buffer.alloc(300_000, 'abcde') }], compression: 'none' }],
});
const { bytes, size, digest } = app.layers[0]!;

let registry: TestRegistry;
before(async () => {
  registry = await startRegistry({ images: { app } });
});
afterEach(() => {
  registry.faults.clear();
  registry.requests.length = 0;
});
after(() => registry.close());

const getBlob = (question?: Question) => ask(`${registry.url}/v2/app/blobs/${digest}`, question);
const getManifest = () => ask(`${registry.url}/v2/app/manifests/latest`);
const last = () => registry.requests.at(-1)!;

test('a cut ends the connection after exactly so many bytes', async () => {
  for (const cutAfter of [0, 1, 100_000, size]) {
    const fault = registry.faults.add({ on: 'blob', do: 'cut', after: cutAfter, times: 1 });
    const answer = await getBlob();
    assert.equal(answer.headers['content-length'], String(size));
    assert.deepEqual(answer.body, bytes.subarray(0, cutAfter));
    assert.equal(answer.broken, cutAfter === size ? undefined : 'ECONNRESET');
    assert.deepEqual([last().bytesSent, last().faults, last().finished], [cutAfter, ['cut'], false]);
    assert.equal(fault.hits, 1);
    assert.equal((await getBlob()).body.length, size, 'only once');
  }
});

test('a reset breaks the answer off too', async () => {
  registry.faults.add({ on: 'blob', do: 'cut', after: 1000, reset: true });
  assert.equal((await getBlob()).broken, 'ECONNRESET');
});

test('a dropped connection gives no answer', async () => {
  registry.faults.add({ on: 'manifest', do: 'drop' });
  await assert.rejects(getManifest(), { code: 'ECONNRESET' });
  assert.equal(last().status, 0);
  assert.equal((await getBlob()).status, 200);
});

test('a stall is silent after so many bytes, for a while or for ever', async () => {
  registry.faults.add({ on: 'blob', do: 'stall', after: 1000, forMs: 120, times: 1 });
  const began = performance.now();
  assert.deepEqual((await getBlob()).body, bytes);
  assert.ok(performance.now() - began >= 110);
  registry.faults.add({ on: 'blob', do: 'stall', after: 1000 });
  const forever = await getBlob({ stopAfter: 1000 });
  assert.equal(forever.body.length, 1000);
  assert.equal(last().finished, false);
});

test('an answer can come late, or never', async () => {
  registry.faults.add({ on: 'ping', do: 'latency', ms: 80, times: 1 });
  const began = performance.now();
  assert.equal((await ask(`${registry.url}/v2/`)).status, 200);
  assert.ok(performance.now() - began >= 75);
  const own = await startRegistry({ faults: [{ do: 'latency', ms: Infinity }] });
  const waiting = assert.rejects(ask(`${own.url}/v2/`), { code: 'ECONNRESET' });
  while (own.requests.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await own.close();
  await waiting;
});

test('a slow body keeps to its pace', async () => {
  registry.faults.add({ on: 'blob', do: 'slow', bytesPerSecond: size * 4 });
  const began = performance.now();
  assert.deepEqual((await getBlob()).body, bytes);
  const took = performance.now() - began;
  assert.ok(took > 200 && took < 2000, `${took} ms`);
});

test('a status comes with its headers, in the protocol’s form or in any other', async () => {
  const date = new Date('2030-01-02T03:04:05Z');
  registry.faults.add({ on: 'manifest', do: 'status', status: 429, retryAfter: 7, times: 1 });
  registry.faults.add({ on: 'manifest', do: 'status', status: 503, retryAfter: date, body: 'busy', times: 1 });
  registry.faults.add({ do: 'status', status: 500, headers: { 'x-odd': '1' } });
  const first = await getManifest();
  assert.deepEqual([first.status, first.headers['retry-after']], [429, '7']);
  assert.equal((json(first)['errors'] as { code: string }[])[0]?.code, 'TOOMANYREQUESTS');
  const second = await getManifest();
  assert.deepEqual(
    [second.status, second.headers['retry-after'], second.body.toString()],
    [503, 'Wed, 02 Jan 2030 03:04:05 GMT', 'busy'],
  );
  const third = await getManifest();
  assert.deepEqual([third.status, third.headers['x-odd']], [500, '1']);
});

test('a Range is answered wrongly in each way', async () => {
  const cases: [Extract<Fault, { do: 'range' }>['how'], number, string | undefined, Buffer][] = [
    ['ignore', 200, undefined, bytes],
    ['refuse', 416, `bytes */${size}`, Buffer.alloc(0)],
    ['missing', 206, undefined, bytes.subarray(7)],
    ['wrong-start', 206, `bytes 6-${size - 1}/${size}`, bytes.subarray(6)],
    ['wrong-total', 206, `bytes 7-${size - 1}/${size + 1}`, bytes.subarray(7)],
    ['wrong-bytes', 206, `bytes 7-${size - 1}/${size}`, bytes.subarray(0, size - 7)],
    ['nonsense', 206, 'bytes from here to there', bytes.subarray(7)],
  ];
  for (const [how, status, contentRange, body] of cases) {
    const fault = registry.faults.add({ on: 'blob', do: 'range', how });
    const answer = await getBlob({ headers: { range: 'bytes=7-' } });
    assert.deepEqual([answer.status, answer.headers['content-range']], [status, contentRange], how);
    assert.ok(answer.body.equals(body), how);
    assert.equal((await getBlob()).status, 200);
    assert.equal(fault.hits, 1, 'a request without a Range is none of its business');
    fault.remove();
  }
});

test('wrong bytes have the right length and one bit turned', async () => {
  registry.faults.add({ on: 'blob', do: 'wrong-bytes', at: 10, times: 1 });
  const { body } = await getBlob();
  assert.equal(body.length, size);
  assert.equal(body[10], bytes[10]! ^ 1);
  body[10] ^= 1;
  assert.ok(body.equals(bytes));
  assert.ok((await getBlob()).body.equals(bytes), 'the stored blob is untouched');
});

test('too long and too short, honestly or not', async () => {
  registry.faults.add({ on: 'blob', do: 'too-long', by: 3, times: 1 });
  const long = await getBlob();
  assert.deepEqual(
    [long.headers['content-length'], long.body.length, long.broken],
    [String(size + 3), size + 3, undefined],
  );
  registry.faults.add({ on: 'blob', do: 'too-long', by: 3, lies: true, times: 1 });
  const lying = await getBlob();
  assert.equal(lying.headers['content-length'], String(size));
  assert.equal(last().bytesSent, size + 3);
  registry.faults.add({ on: 'blob', do: 'too-short', by: 3, times: 1 });
  const short = await getBlob();
  assert.deepEqual([short.headers['content-length'], short.body.length], [String(size), size - 3]);
  assert.equal(short.broken, 'ECONNRESET');
  registry.faults.add({ on: 'blob', do: 'too-short', by: 3, lies: false });
  const honest = await getBlob();
  assert.deepEqual(
    [honest.headers['content-length'], honest.body.length, honest.broken],
    [String(size - 3), size - 3, undefined],
  );
});

test('an endless body goes on until the client has had enough', async () => {
  registry.faults.add({ on: 'blob', do: 'endless' });
  const answer = await getBlob({ stopAfter: 5 * size });
  assert.deepEqual([answer.headers['content-length'], answer.headers['transfer-encoding']], [undefined, 'chunked']);
  assert.ok(answer.body.subarray(size, 2 * size).equals(bytes));
  assert.ok(answer.broken, 'it was the client that hung up');
  assert.equal(last().finished, false);
});

test('a redirect goes where it is told', async () => {
  registry.faults.add({ on: 'blob', do: 'redirect', to: (path) => `https://elsewhere${path}?signed`, times: 1 });
  const computed = await getBlob();
  assert.deepEqual(
    [computed.status, computed.headers.location],
    [307, `https://elsewhere/v2/app/blobs/${digest}?signed`],
  );
  registry.faults.add({ on: 'blob', do: 'redirect', to: '/v2/', status: 302 });
  const fixed = await getBlob();
  assert.deepEqual([fixed.status, fixed.headers.location], [302, '/v2/']);
});

test('challenges are sent as they are written', async () => {
  const challenges = ['basic  REALM = "a, b"', 'Negotiate, Bearer realm="{realm}" , service=x'];
  const own = await startRegistry({
    images: { app },
    auth: { type: 'bearer' },
    faults: [{ do: 'challenge', challenges }],
  });
  const answer = await ask(`${own.url}/v2/`);
  const sent = answer.rawHeaders.filter((_, at) => answer.rawHeaders[at - 1] === 'WWW-Authenticate');
  await own.close();
  assert.equal(answer.status, 401);
  assert.deepEqual(sent, [challenges[0], `Negotiate, Bearer realm="${own.tokenUrl}" , service=x`]);
});

test('flapping hits every other request; skip and times bound it', async () => {
  const statuses = async (count: number) => {
    const seen: number[] = [];
    for (let turn = 0; turn < count; turn++) seen.push((await getManifest()).status);
    return seen;
  };
  const flapping = registry.faults.add({ do: 'status', status: 500, every: 2 });
  assert.deepEqual(await statuses(5), [500, 200, 500, 200, 500]);
  flapping.remove();
  registry.faults.add({ do: 'status', status: 500, skip: 1, times: 2 });
  assert.deepEqual(await statuses(5), [200, 500, 500, 200, 200]);
});

test('faults match by kind, method, expression, digest and Range', async () => {
  const url = `${registry.url}/v2/app/blobs/${digest}`;
  const hitBy = async (fault: Fault, question?: Question) => {
    const active = registry.faults.add(fault);
    await ask(url, question);
    active.remove();
    return active.hits === 1;
  };
  const fault: Fault = { do: 'status', status: 500 };
  assert.equal(await hitBy({ ...fault, on: 'blob' }), true);
  assert.equal(await hitBy({ ...fault, on: 'manifest' }), false);
  assert.equal(await hitBy({ ...fault, method: 'head' }), false);
  assert.equal(await hitBy({ ...fault, method: 'head' }, { method: 'HEAD' }), true);
  assert.equal(await hitBy({ ...fault, on: /\/blobs\//g }), true);
  assert.equal(await hitBy({ ...fault, digest }), true);
  assert.equal(await hitBy({ ...fault, digest: app.digest }), false);
  assert.equal(await hitBy({ ...fault, range: true }), false);
  assert.equal(await hitBy({ ...fault, range: false }), true);
  assert.equal(await hitBy({ ...fault, range: /^bytes=0-$/ }, { headers: { range: 'bytes=0-' } }), true);
  assert.equal(await hitBy({ ...fault, range: /^bytes=0-$/ }, { headers: { range: 'bytes=1-' } }), false);
});

test('faults of a body add up, and wait for an answer that succeeds', async () => {
  const own = await startRegistry({
    images: { app },
    auth: { type: 'basic', users: { ann: 'pw' } },
    faults: [
      { on: 'blob', do: 'slow', bytesPerSecond: 1e6, times: 1 },
      { on: 'blob', do: 'cut', after: 50_000, times: 1 },
    ],
  });
  const url = `${own.url}/v2/app/blobs/${digest}`;
  assert.equal((await ask(url)).status, 401);
  const answer = await ask(url, { headers: { authorization: `Basic ${Buffer.from('ann:pw').toString('base64')}` } });
  await own.close();
  assert.equal(answer.body.length, 50_000);
  assert.deepEqual(
    own.requests.map((request) => request.faults),
    [[], ['slow', 'cut']],
  );
});
