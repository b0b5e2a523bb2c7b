/** What the tests of the registry's side share: a registry for tests, plain or in TLS, and a client that trusts it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { ImageError, Registry, type RegistryOptions } from 'microsandbox-image';
import { startRegistry, type RegistryOptions as ServerOptions, type TestRegistry } from 'microsandbox-image/testing';
import { type Certificates, makeCertificates, whyNoCertificates } from '../support/certificates.js';
import { scratch } from '../support/scratch.js';

/** The ways a registry is spoken to. A way that this machine can't go says why. */
export const WAYS: { name: 'plain HTTP' | 'TLS'; skip: string | false }[] = [
  { name: 'plain HTTP', skip: false },
  { name: 'TLS', skip: whyNoCertificates() ?? false },
];

let made: Certificates | undefined;

/** One authority for a test file. */
export function certificates(): Certificates {
  if (made === undefined) {
    const fresh = makeCertificates();
    made = fresh;
    // Not `after`: within a test that would be the end of that test.
    process.once('exit', () => {
      fresh.remove();
    });
  }
  return made;
}

/** A file that no two places of are alike, and that doesn't shrink when it is packed. */
export function noise(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 0x9e3779b9;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

export const CONTENT = noise(60_000);

/** A registry with `app:1`, one layer that holds the file `data`. */
export async function serve(t: TestContext, way: string, options: ServerOptions = {}): Promise<TestRegistry> {
  const server = await startRegistry({
    images: { 'app:1': { layers: [{ entries: [{ path: 'data', content: CONTENT }], compression: 'none' }] } },
    ...(way === 'TLS' ? { tls: { key: certificates().key, cert: certificates().cert } } : {}),
    ...options,
  });
  t.after(() => server.close());
  return server;
}

/** A client with an empty cache that looks at no stored login and is impatient. */
export function client(way: string, options: RegistryOptions = {}): Registry {
  return new Registry({
    cache: scratch('registry'),
    credentials: 'none',
    stallTimeout: 400,
    retries: 3,
    ...(way === 'TLS' ? { caCertificates: certificates().ca } : {}),
    ...options,
  });
}

/** Pulls `app:1` and checks what came. */
export async function pullRight(registry: Registry, server: TestRegistry): Promise<void> {
  const { layers } = await registry.pull(server.reference('app:1'));
  assert.ok(readFileSync(join(layers[0] ?? '', 'data')).equals(CONTENT), 'the file differs');
}

/** The error that a promise must end in. */
export async function failure(promise: PromiseLike<unknown>): Promise<ImageError> {
  let error: unknown;
  try {
    await promise;
  } catch (caught) {
    error = caught;
  }
  assert.ok(error instanceof ImageError, `no ImageError but ${String(error)}`);
  return error;
}
