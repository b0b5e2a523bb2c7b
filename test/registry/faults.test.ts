/** Networks and servers that misbehave: a pull ends well if it can, and otherwise soon, with the reason. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { PullProgress } from 'microsandbox-image';
import type { Fault } from 'microsandbox-image/testing';
import { client, CONTENT, failure, pullRight, serve, WAYS } from './serving.js';

const CUT: Fault = { on: 'blob', range: false, do: 'cut', after: 40_000, times: 1 };

/** Faults that a pull gets over. */
const PASSING: [string, Fault[]][] = [
  ['a link cut in the middle of a layer', [CUT]],
  ['a link that is reset', [{ ...CUT, reset: true }]],
  ['a link cut every few bytes', [{ on: 'blob', do: 'cut', after: 5000 }]],
  ['a stall in the middle of a layer', [{ on: 'blob', do: 'stall', after: 30_000, times: 1 }]],
  ['no answer at all, twice', [{ do: 'drop', times: 2 }]],
  ['a manifest that breaks off', [{ on: 'manifest', do: 'cut', after: 50, times: 2 }]],
  ['a config that breaks off', [{ on: 'blob', do: 'cut', after: 50, times: 2 }]],
  ['every second request fails', [{ every: 2, do: 'status', status: 503 }]],
  ['too many requests, with a pause', [{ on: 'blob', do: 'status', status: 429, retryAfter: 1, times: 1 }]],
  ['busy until a date', [{ on: 'blob', do: 'status', status: 503, retryAfter: new Date(Date.now() + 500), times: 1 }]],
  ...[408, 500, 502, 504].map((status): [string, Fault[]] => [
    `a passing ${status}`,
    [{ on: 'manifest', do: 'status', status, times: 2 }],
  ]),
  ...(['ignore', 'refuse', 'missing', 'wrong-start', 'wrong-total', 'nonsense'] as const).map(
    (how): [string, Fault[]] => [`a Range answered by ${how}`, [CUT, { on: 'blob', do: 'range', how }]],
  ),
  ['a Range refused as a bad request', [CUT, { on: 'blob', range: true, do: 'status', status: 400 }]],
  ['a Range answered with wrong bytes, once', [CUT, { on: 'blob', do: 'range', how: 'wrong-bytes', times: 1 }]],
  ['a slow link', [{ on: 'blob', do: 'slow', bytesPerSecond: 60_000 }]],
];

/** Faults that a pull ends at. */
const LASTING: [string, Fault[], string][] = [
  ['a layer of wrong bytes', [{ on: 'blob', skip: 1, do: 'wrong-bytes' }], 'ERR_DIGEST_MISMATCH'],
  ['a layer that is too long', [{ on: 'blob', skip: 1, do: 'too-long', by: 9 }], 'ERR_DIGEST_MISMATCH'],
  ['an endless layer', [{ on: 'blob', skip: 1, do: 'endless' }], 'ERR_DIGEST_MISMATCH'],
  ['a layer that never gets on', [{ on: 'blob', skip: 1, do: 'cut', after: 0 }], 'ERR_NETWORK'],
  ['a layer that stalls for ever', [{ on: 'blob', skip: 1, do: 'stall' }], 'ERR_TIMEOUT'],
  ['a config of wrong bytes', [{ on: 'blob', do: 'wrong-bytes' }], 'ERR_DIGEST_MISMATCH'],
  ['a manifest of wrong bytes', [{ on: 'manifest', do: 'wrong-bytes' }], 'ERR_DIGEST_MISMATCH'],
  ['an endless manifest', [{ on: 'manifest', do: 'endless' }], 'ERR_LIMIT'],
  ['a server that is down', [{ do: 'status', status: 503 }], 'ERR_REGISTRY'],
  ['a server that wants an hour', [{ on: 'manifest', do: 'status', status: 429, retryAfter: 3600 }], 'ERR_REGISTRY'],
  ['a layer that is gone', [{ on: 'blob', skip: 1, do: 'status', status: 404 }], 'ERR_NOT_FOUND'],
  ['redirects in a ring', [{ on: 'manifest', do: 'redirect', to: (path) => path }], 'ERR_REGISTRY'],
  ['a redirect to a file', [{ on: 'manifest', do: 'redirect', to: 'file:///etc/passwd' }], 'ERR_REGISTRY'],
];

for (const { name: way, skip } of WAYS) {
  describe(`over ${way}`, { skip }, () => {
    for (const [name, faults] of PASSING) {
      it(`gets over ${name}`, async (t) => {
        const server = await serve(t, way, { faults });
        await pullRight(client(way), server);
      });
    }

    for (const [name, faults, code] of LASTING) {
      it(`ends soon with ${code} at ${name}`, async (t) => {
        const server = await serve(t, way, { faults });
        const started = Date.now();
        const error = await failure(client(way).pull(server.reference('app:1')));
        assert.equal(error.code, code, error.message);
        assert.equal(error.reference, server.reference('app:1'));
        assert.ok(Date.now() - started < 8000, `it took ${Date.now() - started} ms`);
      });
    }

    it('downloads at most 1.1 times a blob over a link cut every 5 %', async (t) => {
      const server = await serve(t, way, { faults: [{ on: 'blob', do: 'cut', after: (CONTENT.length / 20) | 0 }] });
      await pullRight(client(way), server);
      const layer = server.requests.filter(({ kind }) => kind === 'blob').slice(1);
      assert.ok(layer.length >= 20, `${layer.length} requests`);
      const sent = layer.reduce((sum, { bytesSent }) => sum + bytesSent, 0);
      assert.ok(sent <= 1.1 * (CONTENT.length + 2048), `${sent} bytes`);
    });

    it('goes on where another pull was stopped', async (t) => {
      const server = await serve(t, way);
      const stall = server.faults.add({ on: 'blob', skip: 1, do: 'stall', after: 30_000 });
      const registry = client(way, { stallTimeout: 30_000 });
      const stop = new AbortController();
      const pull = registry.pull(server.reference('app:1'), { signal: stop.signal });
      const abort = (): void => {
        stop.abort();
      };
      const stalled = setInterval(() => {
        if (server.requests.some(({ faults }) => faults.includes('stall'))) setTimeout(abort, 200);
      }, 20);
      await assert.rejects(pull, /abort/i);
      clearInterval(stalled);
      stall.remove();
      const before = server.requests.length;
      await pullRight(registry, server);
      const ranges = server.requests.slice(before).map(({ range }) => range);
      assert.ok(
        ranges.some((range) => /^bytes=[1-9]/.test(range ?? '')),
        JSON.stringify(ranges),
      );
    });

    it('stops at once when it is aborted in a pause', async (t) => {
      const server = await serve(t, way, { faults: [{ on: 'manifest', do: 'status', status: 503, retryAfter: 50 }] });
      const stop = new AbortController();
      const events: PullProgress[] = [];
      const pull = client(way).pull(server.reference('app:1'), { signal: stop.signal });
      let aborted = 0;
      await assert.rejects(async () => {
        for await (const event of pull) {
          events.push(event);
          if (event.type !== 'retrying') continue;
          aborted = Date.now();
          stop.abort();
        }
      }, /abort/i);
      assert.ok(aborted > 0 && Date.now() - aborted < 250, `${Date.now() - aborted} ms`);
      const retrying = events.find((event) => event.type === 'retrying');
      assert.deepEqual(retrying && { ...retrying, reason: '' }, {
        type: 'retrying',
        host: server.host,
        attempt: 1,
        delay: 50_000,
        reason: '',
      });
    });
  });
}

describe('a name that nobody resolves', () => {
  it('is tried again, in case the network was away for a moment, and then told', async () => {
    const events: PullProgress[] = [];
    // RFC 2606 keeps `.invalid` free of names.
    const pull = client('plain HTTP', { retries: 1, proxy: null }).pull('registry.invalid/app:1');
    const error = await failure(
      (async () => {
        for await (const event of pull) events.push(event);
      })(),
    );
    assert.equal(error.code, 'ERR_NETWORK');
    assert.match(error.message, /registry\.invalid/);
    assert.deepEqual(
      events.flatMap((event) => (event.type === 'retrying' ? [[event.host, event.attempt]] : [])),
      [['registry.invalid', 1]],
    );
  });
});
