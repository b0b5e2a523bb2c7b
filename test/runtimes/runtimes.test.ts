/** The packed files under Node, its newer releases, Bun and Deno: one suite, plain and over TLS, and one cache for processes of two kinds. */
import assert from 'node:assert/strict';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it, type TestContext } from 'node:test';
import { layer, startRegistry, type RegistryOptions, type TestRegistry } from 'microsandbox-image/testing';
import { makeCertificates, whyNoCertificates } from '../support/certificates.js';
import { type Installed, install } from '../support/installed.js';
import { must } from '../support/programs.js';
import { type Runtime, runtimes } from '../support/runtimes.js';
import { scratch } from '../support/scratch.js';

const CHECKS = [
  'parses what it is given',
  'pulls with progress',
  'answers from the cache',
  'tells errors by code',
  'asks a callback for credentials',
  'stops with the reason of a signal',
  'stops when the loop is left',
];

const base = scratch('runtimes');
let installed: Installed;

/** A layer that never comes to an end. */
const slow = layer([{ path: 'slow', content: 'slow' }]);

function serve(t: TestContext, tls?: RegistryOptions['tls']): Promise<TestRegistry> {
  return startRegistry({
    tls,
    images: {
      'app:1': {
        layers: [[{ path: 'etc/motd', content: 'hello', uid: 1000, gid: 100, mode: 0o640 }]],
        config: { Env: ['A=1'] },
      },
      'slow:1': { layers: [slow] },
    },
    faults: [{ on: 'blob', digest: slow.digest, do: 'stall', after: 1 }],
  }).then((registry) => {
    t.after(() => registry.close());
    return registry;
  });
}

/** Runs a program of the installed folder to its end, which it must come to by itself. */
function under(runtime: Runtime, program: string, ...args: string[]): Promise<string> {
  const file = join(installed.directory, program);
  // Bun and Deno are asked not to look for newer versions of anything.
  const env = { ...process.env, DENO_NO_UPDATE_CHECK: '1', NO_COLOR: '1' };
  const options = { cwd: installed.directory, env, timeout: 20_000 };
  return must(runtime.program, [...runtime.flags, file, ...args], options);
}

before(async () => {
  installed = await install(base);
  for (const name of ['suite.mjs', 'once.mjs']) {
    copyFileSync(join(__dirname, name), join(installed.directory, name));
  }
});

describe('the runtimes', () => {
  it('are all here where CI runs on Linux x64', (t) => {
    const missing = runtimes.filter((runtime) => runtime.missing !== undefined).map(({ name }) => name);
    if (process.env['CI'] === undefined || process.platform !== 'linux' || process.arch !== 'x64') {
      t.skip(`not CI on Linux x64; missing: ${missing.join(', ') || 'none'}`);
      return;
    }
    assert.deepEqual(missing, []);
  });
});

for (const runtime of runtimes) {
  describe(`under ${runtime.name}`, { skip: runtime.missing ?? false }, () => {
    it('the whole suite passes and the process ends by itself', async (t) => {
      const registry = await serve(t);
      const printed = await under(runtime, 'suite.mjs', registry.host, join(base, `${runtime.name}-plain`), 'plain');
      assert.deepEqual(printed.trim().split('\n'), CHECKS);
    });

    it('the whole suite passes over TLS and the process ends by itself', async (t) => {
      const why = whyNoCertificates();
      if (why !== null) {
        t.skip(why);
        return;
      }
      const certificates = makeCertificates();
      t.after(() => {
        certificates.remove();
      });
      const registry = await serve(t, certificates);
      const cache = join(base, `${runtime.name}-tls`);
      const printed = await under(runtime, 'suite.mjs', registry.host, cache, certificates.caPath);
      assert.deepEqual(printed.trim().split('\n'), CHECKS);
    });
  });
}

describe('processes of different runtimes', () => {
  it('pull into one cache at the same time and fetch each blob once', async (t) => {
    const present = runtimes.filter((runtime) => runtime.missing === undefined);
    const kinds = new Set(present.map(({ name }) => name.split(' ')[0]));
    if (kinds.size < 2) {
      t.skip('only Node is here');
      return;
    }
    const registry = await serve(t);
    registry.faults.add({ on: 'blob', do: 'latency', ms: 300 });
    const cache = join(base, 'shared');
    const pulls = [...present, ...present].map((runtime) => under(runtime, 'once.mjs', registry.host, cache));
    assert.deepEqual(new Set(await Promise.all(pulls)), new Set(['hello\n']));
    const blobs = registry.requests.filter(({ kind }) => kind === 'blob').map(({ digest }) => digest);
    assert.equal(blobs.length, new Set(blobs).size, blobs.join(' '));
  });
});
