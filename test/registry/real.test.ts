/** Against the distribution project's own registry: a login over TLS, killed in the middle of a pull. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, request, type Server } from 'node:http';
import { type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Registry, type RegistryOptions } from 'microsandbox-image';
import { tar } from 'microsandbox-image/testing';
import { addToLayout } from '../support/oci-layout.js';
import { has } from '../support/programs.js';
import { startRealRegistry, type RealRegistry, type RealRegistryOptions } from '../support/real-registry.js';
import { scratch } from '../support/scratch.js';
import { startTokenServer } from '../support/token-server.js';
import { certificates, failure, noise } from './serving.js';

const missing = ['docker-registry', 'skopeo', 'openssl'].filter((program) => !has(program));
if (missing.length > 0 && process.env['CI'] !== undefined) throw new Error(`CI lacks ${missing.join(', ')}`);

// bcrypt of "secret".
const HTPASSWD = 'tester:$2b$05$.N3S3qzPnouW7nCTTGPsxuhZ1tMy59IBLt4j.F7UAlgfc6cxjmWXu\n';
const LOGIN = { username: 'tester', password: 'secret' };
const DATA = noise(8_000_000);

describe('docker-registry', { skip: missing.length > 0 && `not installed: ${missing.join(', ')}` }, () => {
  const directory = scratch('real');
  const layout = join(directory, 'layout');
  const started: RealRegistry[] = [];

  before(() => {
    addToLayout(layout, 'app', [{ tar: tar([{ path: 'data', content: DATA }]) }]);
  });
  after(async () => {
    await Promise.all(started.map((registry) => registry.stop()));
  });

  async function start(name: string, options: Partial<RealRegistryOptions> = {}): Promise<RealRegistry> {
    const registry = await startRealRegistry({ directory: join(directory, name), ...options });
    started.push(registry);
    return registry;
  }

  const client = (name: string, options: RegistryOptions = {}): Registry =>
    new Registry({ cache: join(directory, `${name}-cache`), credentials: 'none', ...options });

  async function pullRight(registry: Registry, reference: string): Promise<void> {
    const { layers } = await registry.pull(reference);
    assert.ok(readFileSync(join(layers[0] ?? '', 'data')).equals(DATA), 'the file differs');
  }

  it('with htpasswd over TLS wants a login and gets it', async () => {
    const { caPath, certPath, keyPath } = certificates();
    const registry = await start('htpasswd', { htpasswd: HTPASSWD, tls: { certPath, keyPath } });
    await registry.push(layout, 'app', 'app:1', 'tester:secret');
    const caCertificates = readFileSync(caPath);
    const error = await failure(client('htpasswd', { caCertificates }).pull(`${registry.host}/app:1`));
    assert.equal(error.code, 'ERR_UNAUTHORIZED');
    assert.ok(error.message.includes(`docker login ${registry.host}`), error.message);
    await pullRight(client('htpasswd', { caCertificates, auth: LOGIN }), `${registry.host}/app:1`);
  });

  it('with a token server gives its images to those who have a login there', async () => {
    const { caPath, cert, key } = certificates();
    const tokens = await startTokenServer({ login: LOGIN, key, cert, issuer: 'token tests' });
    try {
      const registry = await start('token', { token: { realm: tokens.realm, issuer: 'token tests', caPath } });
      await registry.push(layout, 'app', 'app:1', 'tester:secret');
      const unnamed = await failure(client('token', { auth: LOGIN }).pull(`${registry.host}/app:1`));
      assert.match(unnamed.message, /token server that is not trusted/, 'another port of loopback is another program');
      const insecure = [new URL(tokens.realm).host];
      assert.equal(
        (await failure(client('token', { insecure }).pull(`${registry.host}/app:1`))).code,
        'ERR_UNAUTHORIZED',
      );
      const before = tokens.asked.login;
      await pullRight(client('token', { auth: LOGIN, insecure }), `${registry.host}/app:1`);
      assert.equal(tokens.asked.login - before, 1, 'one token for the whole pull');
    } finally {
      tokens.close();
    }
  });

  it('killed in the middle of a pull and started again loses nothing', async () => {
    const registry = await start('killed');
    await registry.push(layout, 'app', 'app:1');
    const slow = await startSlowWay(registry.host);
    try {
      const pull = client('killed').pull(`${slow.host}/app:1`);
      let killed = false;
      for await (const event of pull) {
        if (killed || event.type !== 'layer-download-progress' || event.downloadedBytes < 1_000_000) continue;
        killed = true;
        await registry.kill();
        setTimeout(() => void registry.start(), 300);
      }
      assert.ok(killed);
      const { layers } = await pull;
      assert.ok(readFileSync(join(layers[0] ?? '', 'data')).equals(DATA), 'the file differs');
      assert.ok(
        slow.ranges.some((range) => /^bytes=\d{6,}-$/.test(range)),
        slow.ranges.join(),
      );
    } finally {
      slow.server.closeAllConnections();
      slow.server.close();
    }
  });
});

/** A way to a registry at some eight megabytes a second, so that there is a middle. */
async function startSlowWay(host: string): Promise<{ host: string; server: Server; ranges: string[] }> {
  const ranges: string[] = [];
  const server = createServer((incoming, outgoing) => {
    if (incoming.headers.range !== undefined) ranges.push(incoming.headers.range);
    const headers = { ...incoming.headers, host };
    const onward = request(`http://${host}${incoming.url ?? ''}`, { headers, agent: false }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.on('data', (data: Buffer) => {
        outgoing.write(data);
        answer.pause();
        setTimeout(() => answer.resume(), data.length / 8000);
      });
      answer.on('end', () => outgoing.end());
      answer.on('error', () => outgoing.destroy());
    });
    onward.on('error', () => outgoing.destroy()).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { host: `127.0.0.1:${(server.address() as AddressInfo).port}`, server, ranges };
}
