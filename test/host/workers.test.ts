/** A worker that ends takes its work with it: pulls, verifications, prunes and leases stop and give their locks back. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { GlobalCache, Registry } from 'microsandbox-image';
import { layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { requirePrograms, run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const ROOT = join(__dirname, '..', '..');
/** What was promised, and the time to ask for a lock. */
const STOP = 250;

const HEAD = `
  const { parentPort, workerData } = require('node:worker_threads');
  const { Registry, GlobalCache } = require(workerData.root);
  parentPort.on('message', () => process.exit(0));
  const { cache, reference, digest } = workerData;
  const tell = (text) => parentPort.postMessage(text);
`;
const PULL = `${HEAD}
  (async () => {
    const pull = new Registry({ cache, credentials: 'none' }).pull(reference);
    for await (const { type } of pull) tell(type);
    await pull;
    tell('complete');
  })().catch(({ code, message }) => tell(code + ' ' + message));
`;

interface Data {
  cache: string;
  reference?: string;
  digest?: string;
}

/** A worker, and what it told. */
function start(code: string, data: Data): { worker: Worker; told: (text: string) => Promise<void> } {
  const worker = new Worker(code, { eval: true, workerData: { root: ROOT, ...data } });
  const texts: unknown[] = [];
  worker.on('message', (text) => texts.push(text));
  const told = async (text: string): Promise<void> => {
    for (let tries = 0; !texts.includes(text); tries += 1) {
      assert.ok(tries < 3000, `"${text}" was not told, but ${texts.join(', ')}`);
      await sleep(10);
    }
  };
  return { worker, told };
}

function isHeld(path: string): boolean {
  return existsSync(path) && spawnSync('flock', ['--nonblock', path, 'true']).status !== 0;
}

/** Milliseconds until none of the locks is held. */
async function freed(locks: string[]): Promise<number> {
  const since = performance.now();
  while (locks.some(isHeld)) {
    assert.ok(performance.now() - since < 20_000, `still held: ${locks.filter(isHeld).join(', ')}`);
    await sleep(5);
  }
  return performance.now() - since;
}

async function hold(t: TestContext, path: string): Promise<ChildProcess> {
  const child = spawn('flock', ['--no-fork', path, 'sh', '-c', 'echo held; exec cat']);
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  return child;
}

async function slowly(t: TestContext): Promise<{ server: TestRegistry; digest: string }> {
  const big = layer([{ path: 'opt/big', content: randomBytes(3_000_000) }]);
  const server = await startRegistry({ images: { 'app:1': { layers: [big] } } });
  server.faults.add({ on: 'blob', do: 'slow', bytesPerSecond: 100_000 });
  t.after(() => server.close());
  return { server, digest: big.digest };
}

const leases = (cache: GlobalCache): string[] =>
  readdirSync(join(cache.directory, 'leases')).filter((name) => name !== 'gc.lock');

describe('a worker that ends', () => {
  for (const how of ['terminate()', 'process.exit()']) {
    it(`by ${how} stops its pull within ${STOP} ms, and its locks are free`, async (t) => {
      if (!requirePrograms(t, 'flock')) return;
      const { server, digest } = await slowly(t);
      const cache = new GlobalCache(scratch('worker-pull'));
      const reference = server.reference('app:1');
      const { worker, told } = start(PULL, { cache: cache.directory, reference });
      await told('layer-download-progress');
      const locks = [cache.imageLockPath(reference), cache.layerLockPath(digest), cache.layerDownloadLockPath(digest)];
      assert.deepEqual(locks.map(isHeld), [true, true, true], 'the locks of a pull at work');
      assert.equal(leases(cache).length, 1);
      const ended = once(worker, 'exit');
      if (how === 'terminate()') void worker.terminate();
      else worker.postMessage('end');
      await ended;
      const took = await freed(locks);
      assert.ok(took < STOP, `the locks were free after ${took} ms`);
      assert.deepEqual(leases(cache), []);
      assert.ok(existsSync(cache.layerPartPath(digest)), 'what came is kept');
      assert.ok(
        !readdirSync(cache.layersDir).some((name) => name.endsWith('.extracting')),
        'and no tree in the making',
      );
      // Whoever comes next goes on.
      server.faults.clear();
      assert.equal((await new Registry({ cache }).pull(reference)).cached, false);
    });
  }

  it('stops its verification, and the locks of the layer are free', async (t) => {
    if (!requirePrograms(t, 'flock')) return;
    const big = layer([{ path: 'opt/big', content: randomBytes(80_000_000) }]);
    const server = await startRegistry({ images: { 'app:1': { layers: [big] } } });
    t.after(() => server.close());
    const cache = new GlobalCache(scratch('worker-verify'));
    await new Registry({ cache }).pull(server.reference('app:1'));
    const code = `${HEAD} new GlobalCache(cache).verify({ depth: 'content' }).then(() => tell('complete'));`;
    const { worker } = start(code, { cache: cache.directory });
    const locks = [cache.layerLockPath(big.digest), cache.layerDownloadLockPath(big.digest)];
    const since = performance.now();
    // Asked of the kernel's list: starting a program for each look could take longer than the verification.
    const isListed = (path: string) =>
      existsSync(path) && readFileSync('/proc/locks', 'utf8').includes(`:${statSync(path).ino} `);
    while (!locks.every(isListed)) assert.ok(performance.now() - since < 20_000, 'the layer was not looked at');
    await worker.terminate();
    const took = await freed(locks);
    assert.ok(took < STOP, `the locks were free after ${took} ms`);
  });

  it('takes no lock that it waited for, and gives its leases back', async (t) => {
    if (!requirePrograms(t, 'flock')) return;
    const { server, digest } = await slowly(t);
    server.faults.clear();
    const cache = new GlobalCache(scratch('worker-lease'));
    const reference = server.reference('app:1');
    await new Registry({ cache }).pull(reference);
    const leasing = `${HEAD} new GlobalCache(cache).lease([digest]).then(() => tell('leased'));`;
    const data = { cache: cache.directory, digest, reference };
    const first = start(leasing, data);
    await first.told('leased');
    assert.equal(leases(cache).length, 1);
    await first.worker.terminate();
    for (let waited = 0; leases(cache).length > 0; waited += 10) {
      assert.ok(waited < STOP, 'the lease stays');
      await sleep(10);
    }
    const holder = await hold(t, join(cache.directory, 'leases', 'gc.lock'));
    const never = '{ lockTimeout: null }';
    for (const call of [
      `lease([digest], ${never})`,
      `prune({ keep: 0, lockTimeout: null })`,
      `remove(reference, ${never})`,
    ]) {
      const { worker, told } = start(`${HEAD} new GlobalCache(cache).${call}; tell('waits');`, data);
      await told('waits');
      await sleep(200);
      await worker.terminate();
    }
    await sleep(STOP);
    holder.kill('SIGKILL');
    await sleep(STOP);
    assert.deepEqual(leases(cache), []);
    assert.notEqual(new Registry({ cache }).pullCached(reference), null, 'nothing was removed after all');
  });

  it('neither crashes the process nor leaves a thread behind, again and again', async (t) => {
    const { server } = await slowly(t);
    const program = `
      const { Worker } = require('node:worker_threads');
      const { readdirSync } = require('node:fs');
      const threads = () => readdirSync('/proc/self/task').length;
      const code = ${JSON.stringify(PULL)};
      const round = (at) => new Promise((resolve) => {
        const workerData = { root: ${JSON.stringify(ROOT)}, cache: ${JSON.stringify(scratch('worker-many'))} + (at % 3), reference: ${JSON.stringify(server.reference('app:1'))} };
        const worker = new Worker(code, { eval: true, workerData });
        worker.on('exit', resolve);
        worker.on('message', (type) => { if (type === 'resolving' || at % 2) setTimeout(() => worker.terminate(), at * 7 % 40); });
      });
      (async () => {
        for (let at = 0; at < 6; at += 1) await round(at);
        // Threads for files end after ten seconds without work.
        await new Promise((resolve) => setTimeout(resolve, 12_000));
        const before = threads();
        for (let at = 0; at < 24; at += 1) await round(at);
        await new Promise((resolve) => setTimeout(resolve, 12_000));
        console.log(JSON.stringify({ before, after: threads() }));
      })();`;
    const { code, stdout, stderr } = await run(process.execPath, ['-e', program]);
    assert.equal(code, 0, stderr);
    const { before, after } = JSON.parse(stdout) as { before: number; after: number };
    assert.ok(after <= before, `${before} threads before, ${after} after`);
  });
});
