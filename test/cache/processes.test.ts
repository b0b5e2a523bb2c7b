/**
 * One cache, many processes: several at once, killed at random moments, stopped while they hold a lock.
 *
 * The moments are random and replayable: the seed is printed, and `SEED=… npm test test/cache/processes.test.ts` uses it.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { GlobalCache, ImageError, Registry } from 'microsandbox-image';
import {
  type BuiltLayer,
  layer,
  startRegistry,
  tar,
  type TarEntry,
  type TestRegistry,
} from 'microsandbox-image/testing';
import { makeCertificates } from '../support/certificates.js';
import { addToLayout } from '../support/oci-layout.js';
import { buildOriginal, pullWithOriginal } from '../support/original.js';
import { must, requirePrograms, run } from '../support/programs.js';
import { startRealRegistry } from '../support/real-registry.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');

/** Entries that do not compress, so that a layer takes a while to arrive. */
function entries(name: string, files: number, random: () => number): TarEntry[] {
  return Array.from({ length: files }, (_, at) => ({
    path: `opt/${name}/deep/${at}`,
    content: Buffer.from(Array.from({ length: 4000 }, () => Math.floor(random() * 256))),
  }));
}

/** A small generator of numbers in [0, 1) that a seed replays. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function pulling(reference: string, cache: string): ChildProcess {
  return spawn(process.execPath, [MAIN, 'pull', reference, '--cache-dir', cache], { stdio: 'ignore' });
}

function blobRequests(server: TestRegistry, digest: string): number {
  return server.requests.filter(({ kind, path }) => kind === 'blob' && path.includes(digest)).length;
}

describe('a cache that many processes use', () => {
  it('gets every layer once when eight of them pull images that share layers in opposite order', async (t) => {
    const random = generator(1);
    const layers = ['a', 'b', 'c', 'd'].map((name) => layer(entries(name, 20, random)));
    const images = { 'up:1': { layers }, 'down:1': { layers: [...layers].reverse() } };
    const server = await startRegistry({ images });
    t.after(() => server.close());
    const cache = scratch('many');
    const pulls = Array.from({ length: 8 }, (_, at) =>
      must(process.execPath, [
        ...[MAIN, 'pull', server.reference(at % 2 === 0 ? 'up:1' : 'down:1')],
        ...['--cache-dir', cache, '--json'],
      ]),
    );
    const results = (await Promise.all(pulls)).map((text) => JSON.parse(text) as { layerDigests: string[] });
    assert.deepEqual(results[1]?.layerDigests, [...(results[0]?.layerDigests ?? [])].reverse());
    for (const { digest } of layers) assert.equal(blobRequests(server, digest), 1, digest);
    const report = await new GlobalCache(cache).verify({ depth: 'content' });
    assert.deepEqual([report.ok, report.images, report.layers, report.skipped], [true, 2, 4, []]);
  });

  it('serves seven at once, one of them the original, which has three followers', async (t) => {
    if (!requirePrograms(t, 'docker-registry', 'skopeo', 'openssl', 'python3', 'cargo')) return;
    const directory = scratch('ten');
    const certificates = makeCertificates();
    t.after(() => {
      certificates.remove();
    });
    await buildOriginal();
    const tls = { certPath: certificates.certPath, keyPath: certificates.keyPath };
    const server = await startRealRegistry({ directory: join(directory, 'registry'), tls });
    t.after(() => server.stop());
    const random = generator(2);
    const tars = ['a', 'b', 'c'].map((name) => ({ tar: tar(entries(name, 20, random)) }));
    const layout = join(directory, 'layout');
    addToLayout(layout, 'up', tars);
    addToLayout(layout, 'down', [...tars].reverse());
    for (const name of ['up', 'down']) await server.push(layout, name, `${name}:1`);
    const cache = join(directory, 'cache');
    // Two of the original would wait for each other for ever: it holds one layer's lock while it waits for another's.
    let original: Promise<unknown> = Promise.resolve();
    const pull = async (at: number): Promise<string[]> => {
      const reference = `${server.host}/${at % 2 === 0 ? 'up' : 'down'}:1`;
      if (at < 4) {
        const turn = original.then(() => pullWithOriginal(reference, cache, certificates.caPath));
        original = turn;
        return (await turn).layers;
      }
      const flags = ['--cache-dir', cache, '--ca-cert', certificates.caPath, '--json'];
      const text = await must(process.execPath, [MAIN, 'pull', reference, ...flags]);
      return (JSON.parse(text) as { layers: string[] }).layers;
    };
    const layers = await Promise.all(Array.from({ length: 10 }, (_, at) => pull(at)));
    for (const [at, list] of layers.entries()) assert.deepEqual(list, layers[at % 2], `process ${at}`);
    assert.deepEqual(layers[1], [...(layers[0] ?? [])].reverse());
    const report = await new GlobalCache(cache).verify({ depth: 'content' });
    assert.deepEqual(report.problems, []);
  });

  it('is whole after each of them is killed at a random moment, and no finished layer is fetched again', async (t) => {
    const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9));
    t.diagnostic(`SEED=${seed}`);
    const random = generator(seed);
    const layers = ['a', 'b', 'c', 'd', 'e'].map((name, at) => layer(entries(name, 20 + 20 * at, random)));
    const server = await startRegistry({ images: { 'app:1': { layers } } });
    t.after(() => server.close());
    server.faults.add({ on: 'blob', do: 'slow', bytesPerSecond: 1_500_000 });
    const directory = scratch('killed');
    const cache = new GlobalCache(directory);
    let interrupted = 0;
    for (let round = 0; round < 12; round += 1) {
      const before = finished(cache, layers);
      const asked = new Map(layers.map(({ digest }) => [digest, blobRequests(server, digest)]));
      const child = pulling(server.reference('app:1'), directory);
      await Promise.race([once(child, 'exit'), pause(60 + random() * 500)]);
      if (child.exitCode === null) {
        interrupted += 1;
        const ended = once(child, 'exit');
        child.kill('SIGKILL');
        await ended;
      }
      for (const digest of before) assert.equal(blobRequests(server, digest), asked.get(digest), 'fetched again');
      // Under a final name there is nothing that is not whole.
      const { problems } = await cache.verify({ depth: 'content' });
      assert.deepEqual(problems, [], `round ${round}, SEED=${seed}`);
    }
    assert.ok(interrupted > 0, 'no process lived long enough to be killed');
    server.faults.clear();
    // No lock stays, and what is left over is swept by the pull itself.
    const result = await new Registry({ cache, lockTimeout: 5000 }).pull(server.reference('app:1'));
    assert.equal(result.layers.length, 5);
    await until(() => leftovers(directory).length === 0);
    assert.deepEqual((await cache.verify({ depth: 'content' })).problems, []);
    assert.deepEqual((await cache.prune()).removed, []);
  });

  it('names the process that is stopped while it holds a lock, and goes on when that one does', async (t) => {
    const server = await startRegistry({ images: { 'app:1': { layers: [entries('a', 20, generator(3))] } } });
    t.after(() => server.close());
    server.faults.add({ on: 'blob', do: 'stall', after: 100, forMs: 2000, times: 1 });
    const directory = scratch('stopped');
    const child = pulling(server.reference('app:1'), directory);
    const ended = once(child, 'exit');
    await until(() => server.requests.some(({ kind }) => kind === 'blob'));
    child.kill('SIGSTOP');
    const registry = new Registry({ cache: directory, lockTimeout: 300 });
    const error: unknown = await registry.pull(server.reference('app:1')).catch((reason: unknown) => reason);
    assert.ok(error instanceof ImageError);
    assert.deepEqual([error.code, error.details?.['holder']], ['ERR_LOCK_TIMEOUT', child.pid]);
    child.kill('SIGCONT');
    const patient = new Registry({ cache: directory, lockTimeout: 30_000 });
    assert.equal((await patient.pull(server.reference('app:1'))).layers.length, 1);
    assert.deepEqual(await ended, [0, null]);
  });

  it('is pruned, verified and pulled into at the same time without harm', async (t) => {
    const random = generator(4);
    const shared = layer(entries('shared', 30, random));
    const images = Object.fromEntries(
      ['a', 'b', 'c'].map((name) => [`${name}:1`, { layers: [shared, entries(name, 20, random)] }]),
    );
    const server = await startRegistry({ images });
    t.after(() => server.close());
    const cache = scratch('busy');
    const cli = (...args: string[]) => run(process.execPath, [MAIN, ...args, '--cache-dir', cache, '--json']);
    const rounds = async (work: () => Promise<{ code: number | null; stdout: string }>): Promise<void> => {
      for (let round = 0; round < 4; round += 1) {
        const { code, stdout } = await work();
        assert.equal(code, 0, stdout);
      }
    };
    await Promise.all([
      ...['a:1', 'b:1', 'c:1'].map((name) => rounds(() => cli('pull', server.reference(name)))),
      rounds(() => cli('prune', '--keep', '0', '--blobs')),
      rounds(() => cli('verify', '--repair', '--depth', 'content')),
    ]);
    const registry = new Registry({ cache });
    for (const name of ['a:1', 'b:1', 'c:1']) await registry.pull(server.reference(name));
    assert.deepEqual((await registry.cache.verify({ depth: 'content' })).problems, []);
  });
});

function finished(cache: GlobalCache, layers: BuiltLayer[]): string[] {
  return layers
    .map(({ digest }) => digest)
    .filter((digest) => cache.isExtracted(digest) && existsSync(cache.layerIndexPath(digest)));
}

function leftovers(directory: string): string[] {
  return readdirSync(join(directory, 'layers')).filter((name) => /^\.|\.extracting$|\.part$/.test(name));
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not come to pass within ten seconds');
    await pause(10);
  }
}
