/** The way to a registry: mirrors, proxies, certificates; and how few connections it takes. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { Registry } from 'microsandbox-image';
import { image, type TestRegistry } from 'microsandbox-image/testing';
import { scratch } from '../support/scratch.js';
import { certificates, client, failure, pullRight, serve, WAYS } from './serving.js';

const blobs = (server: TestRegistry): number =>
  server.requests.filter(({ kind, status }) => kind === 'blob' && status === 200).length;

for (const { name: way, skip } of WAYS) {
  describe(`mirrors over ${way}`, { skip }, () => {
    it('are asked in order, and the registry only if none has the image', async (t) => {
      const [lacking, good, origin] = [await serve(t, way, { images: {} }), await serve(t, way), await serve(t, way)];
      await pullRight(client(way, { mirrors: { [origin.host]: [lacking.url, good.url] } }), origin);
      assert.deepEqual([blobs(lacking), blobs(good), origin.requests.length], [0, 2, 0]);
      await pullRight(client(way, { mirrors: { [origin.host]: [lacking.url] } }), origin);
      assert.equal(blobs(origin), 2);
    });

    it('are not believed', async (t) => {
      const [lying, origin] = [
        await serve(t, way, { faults: [{ on: 'blob', do: 'wrong-bytes' }] }),
        await serve(t, way),
      ];
      await pullRight(client(way, { mirrors: { [origin.host]: [lying.url] } }), origin);
      assert.equal(blobs(origin), 2);
    });

    it('that break off are left for the registry, which goes on in the same place', async (t) => {
      const faults = [{ on: 'blob', skip: 1, do: 'cut', after: 20_000 }] as const;
      const [breaking, origin] = [await serve(t, way, { faults: [...faults] }), await serve(t, way)];
      await pullRight(client(way, { mirrors: { [origin.host]: [breaking.url] } }), origin);
      assert.ok(origin.requests.some(({ range }) => range === 'bytes=20000-'));
    });

    it('see no credential of the registry', async (t) => {
      const auth = { type: 'basic', users: { me: 'hunter2' } } as const;
      const [mirror, origin] = [await serve(t, way, { auth }), await serve(t, way, { auth })];
      const options = { auth: { username: 'me', password: 'hunter2' }, mirrors: { [origin.host]: [mirror.url] } };
      await pullRight(client(way, options), origin);
      assert.ok(mirror.requests.every(({ authorization }) => !authorization.present));
    });
  });

  describe(`connections over ${way}`, { skip }, () => {
    it('are at most as many as downloads at a time, for a hundred layers', async (t) => {
      const layers = Array.from({ length: 100 }, (_, at) => [{ path: `file-${at}`, content: 'x'.repeat(at) }]);
      const server = await serve(t, way, { images: { 'app:1': image({ layers }) } });
      await client(way, { concurrency: 3 }).pull(server.reference('app:1'));
      assert.ok(server.connections.peak <= 3, `${server.connections.peak} connections`);
    });

    it('do not keep a process from ending', async (t) => {
      const server = await serve(t, way);
      const script = `
        const { Registry } = require('microsandbox-image');
        const { reference, ...options } = JSON.parse(process.argv[1]);
        new Registry(options).pull(reference).then(() => console.log('pulled'));`;
      const options = {
        reference: server.reference('app:1'),
        cache: scratch('exit'),
        credentials: 'none',
        ...(way === 'TLS' ? { caCertificates: certificates().ca } : {}),
      };
      const started = Date.now();
      const { stdout } = await promisify(execFile)(process.execPath, ['-e', script, JSON.stringify(options)]);
      assert.equal(stdout, 'pulled\n');
      assert.ok(Date.now() - started < 5000, `${Date.now() - started} ms`);
    });

    it('are gone after the clients that had them', async (t) => {
      const server = await serve(t, way);
      const cache = scratch('many');
      for (let round = 0; round < 50; round++) {
        await client(way, { cache }).pull(server.reference('app:1'), { policy: 'always' });
      }
      for (let waited = 0; server.connections.open > 5 && waited < 100; waited++) {
        (globalThis as { gc?: () => void }).gc?.();
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      assert.ok(server.connections.peak <= 60, `${server.connections.peak} connections at a time`);
    });
  });
}

describe('a dead mirror', () => {
  it('costs at most two seconds, once', async (t) => {
    const silent = createTcpServer();
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    t.after(() => {
      silent.close();
    });
    const { port } = silent.address() as AddressInfo;
    const origin = await serve(t, 'plain HTTP');
    const registry = client('plain HTTP', {
      mirrors: { [origin.host]: [`http://127.0.0.1:${port}`] },
      stallTimeout: 30_000,
    });
    const started = Date.now();
    await pullRight(registry, origin);
    assert.ok(Date.now() - started < 3000, `${Date.now() - started} ms`);
    const again = Date.now();
    await registry.pull(origin.reference('app:1'), { force: true });
    assert.ok(Date.now() - again < 1000, `${Date.now() - again} ms`);
  });
});

function setVariable(name: string, value: string | undefined): void {
  if (value === undefined) Reflect.deleteProperty(process.env, name);
  else process.env[name] = value;
}

/** A proxy that sends everything to one server, and says what it was asked for. */
async function startProxy(t: TestContext, target: string): Promise<{ url: string; asked: string[] }> {
  const asked: string[] = [];
  const [host = '', port] = target.split(':');
  const proxy: Server = createServer((request, response) => {
    asked.push(request.url ?? '');
    response.writeHead(502).end();
  });
  proxy.on('connect', (request, socket) => {
    asked.push(`CONNECT ${request.url ?? ''} ${request.headers['proxy-authorization'] ?? ''}`.trim());
    const through = connect(Number(port), host, () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      through.pipe(socket).pipe(through);
    });
    through.on('error', () => socket.destroy());
    socket.on('error', () => through.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  return { url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, asked };
}

describe('a proxy', { skip: WAYS[1]?.skip ?? false }, () => {
  it('that is named is gone through by a tunnel, with its own login, and not for loopback', async (t) => {
    const server = await serve(t, 'TLS');
    const proxy = await startProxy(t, server.host);
    const named = client('TLS', { proxy: proxy.url.replace('//', '//me:hunter2@') });
    // Loopback goes direct, whoever names the proxy.
    await pullRight(named, server);
    assert.equal(proxy.asked.length, 0);
    // The tunnel leads to the test's server, whose certificate is for another name: so it was gone through.
    const error = await failure(named.pull('registry.invalid/app:1'));
    const login = `Basic ${Buffer.from('me:hunter2').toString('base64')}`;
    assert.ok(proxy.asked.includes(`CONNECT registry.invalid:443 ${login}`), proxy.asked.join('\n'));
    assert.match(error.message, /another name/);
    assert.ok(!error.message.includes('hunter2'));
  });

  it('of the environment is for other hosts than loopback', async (t) => {
    const server = await serve(t, 'TLS');
    const proxy = await startProxy(t, server.host);
    const before = process.env['HTTPS_PROXY'];
    setVariable('HTTPS_PROXY', proxy.url);
    t.after(() => {
      setVariable('HTTPS_PROXY', before);
    });
    await pullRight(client('TLS'), server);
    assert.equal(proxy.asked.length, 0);
    // The tunnel leads to the test's server, whose certificate is for another name: so it was gone through.
    const error = await failure(client('TLS').pull('registry.invalid/app:1'));
    assert.ok(proxy.asked.includes('CONNECT registry.invalid:443'), error.message);
    assert.match(error.message, /another name/);
    const asked = proxy.asked.length;
    await failure(client('TLS', { proxy: null, retries: 0 }).pull('registry.invalid/app:1'));
    assert.equal(proxy.asked.length, asked);
  });
});

describe('certificates', { skip: WAYS[1]?.skip ?? false }, () => {
  it('that nobody trusts end a pull at once, with the option that helps', async (t) => {
    const server = await serve(t, 'TLS');
    const started = Date.now();
    const error = await failure(client('plain HTTP').pull(server.reference('app:1')));
    assert.equal(error.code, 'ERR_NETWORK');
    assert.match(error.message, /caCertificates/);
    assert.ok(Date.now() - started < 2000);
  });

  it('come from NODE_EXTRA_CA_CERTS and SSL_CERT_FILE too', async (t) => {
    for (const name of ['NODE_EXTRA_CA_CERTS', 'SSL_CERT_FILE']) {
      const server = await serve(t, 'TLS');
      const before = process.env[name];
      setVariable(name, certificates().caPath);
      t.after(() => {
        setVariable(name, before);
      });
      await pullRight(client('plain HTTP'), server);
      setVariable(name, before);
    }
  });

  it('that are none are told when the client is made', () => {
    for (const caCertificates of ['nonsense', '', ['-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n']]) {
      assert.throws(() => new Registry({ caCertificates }), { code: 'ERR_INVALID_OPTION' });
    }
  });
});
