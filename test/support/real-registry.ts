/** Debian's `docker-registry` (the distribution project's own) on a free loopback port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { request as plainRequest } from 'node:http';
import { request as tlsRequest } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { must } from './programs.js';

export interface RealRegistryOptions {
  /** Where its blobs and configuration go. */
  directory: string;
  /** Speaks TLS with this certificate. */
  tls?: { certPath: string; keyPath: string };
  /** Contents of an htpasswd file: every request needs a login. */
  htpasswd?: string;
  /** Sends those who have no token to this realm; tokens must be signed by what the file of certificates vouches for. */
  token?: { realm: string; issuer: string; caPath: string };
  /** Serves as a pull-through cache of this registry. */
  proxyOf?: string;
  port?: number;
}

export interface RealRegistry {
  /** `127.0.0.1:port` */
  host: string;
  url: string;
  /** Pushes an image of an OCI layout by skopeo. */
  push(layout: string, name: string, reference: string, login?: string): Promise<void>;
  stop(): Promise<void>;
  /** Kills it as a crash would. */
  kill(): Promise<void>;
  /** Starts it again on the same port, with what it had. */
  start(): Promise<void>;
}

/** Starts a registry and waits until it answers. */
export async function startRealRegistry(options: RealRegistryOptions): Promise<RealRegistry> {
  const port = options.port ?? (await freePort());
  const host = `127.0.0.1:${port}`;
  const url = `${options.tls === undefined ? 'http' : 'https'}://${host}`;
  const config = writeConfig(options, host);
  let child: ChildProcess | undefined;
  const start = async (): Promise<void> => {
    child = spawn('docker-registry', ['serve', config], {
      stdio: 'ignore',
      env: { ...process.env, OTEL_TRACES_EXPORTER: 'none' },
    });
    await waitUntilUp(`${url}/v2/`);
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const ending = child;
    if (ending?.exitCode !== null || ending.signalCode !== null) return;
    await new Promise((resolve) => {
      ending.once('exit', resolve);
      ending.kill(signal);
    });
  };
  await start();
  return {
    host,
    url,
    start,
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    push: async (layout, name, reference, login) => {
      const credentials = login === undefined ? [] : ['--dest-creds', login];
      await must('skopeo', [
        ...['copy', '--quiet', '--dest-tls-verify=false', '--preserve-digests', ...credentials],
        ...[`oci:${layout}:${name}`, `docker://${host}/${reference}`],
      ]);
    },
  };
}

function writeConfig(options: RealRegistryOptions, host: string): string {
  mkdirSync(join(options.directory, 'blobs'), { recursive: true });
  const htpasswd = join(options.directory, 'htpasswd');
  if (options.htpasswd !== undefined) writeFileSync(htpasswd, options.htpasswd);
  const config = {
    version: '0.1',
    log: { level: 'error', accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: join(options.directory, 'blobs') }, delete: { enabled: true } },
    http: {
      addr: host,
      ...(options.tls === undefined ? {} : { tls: { certificate: options.tls.certPath, key: options.tls.keyPath } }),
    },
    ...(options.htpasswd === undefined ? {} : { auth: { htpasswd: { realm: 'tests', path: htpasswd } } }),
    ...(options.token === undefined ? {} : { auth: { token: tokenAuth(options.token) } }),
    ...(options.proxyOf === undefined ? {} : { proxy: { remoteurl: options.proxyOf } }),
  };
  const file = join(options.directory, 'config.yml');
  // JSON is YAML.
  writeFileSync(file, JSON.stringify(config));
  return file;
}

function tokenAuth({ realm, issuer, caPath }: NonNullable<RealRegistryOptions['token']>): object {
  return { realm, service: 'tests', issuer, rootcertbundle: caPath };
}

async function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => {
        resolve(port);
      });
    });
  });
}

async function waitUntilUp(url: string): Promise<void> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    if (await answers(url)) return;
    if (Date.now() > deadline) throw new Error(`the registry at ${url} does not come up`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

function answers(url: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = url.startsWith('https') ? tlsRequest : plainRequest;
    request(url, { rejectUnauthorized: false }, (response) => {
      response.resume();
      resolve(true);
    })
      .on('error', () => {
        resolve(false);
      })
      .end();
  });
}
