/** Signals: refused where they are none, honoured where they are aborted already, and cheap where there are many pulls. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { GlobalCache, ImageError, plan, pull, Registry, type WaitOptions } from 'microsandbox-image';
import { startRegistry } from 'microsandbox-image/testing';
import { requirePrograms } from './support/programs.js';
import { scratch } from './support/scratch.js';

const DIGEST = `sha256:${'a'.repeat(64)}`;

/** Every function that takes a signal. */
function calls(directory: string, reference: string): Record<string, (signal: never) => Promise<unknown>> {
  const cache = new GlobalCache(directory);
  const registry = new Registry({ cache, credentials: 'none' });
  return {
    'registry.pull': (signal) => registry.pull(reference, { signal }),
    'registry.plan': (signal) => registry.plan(reference, { signal }),
    'registry.resolve': (signal) => registry.resolve(reference, { signal }),
    pull: (signal) => pull(reference, { cache, signal }),
    plan: (signal) => plan(reference, { cache, signal }),
    'cache.verify': (signal) => cache.verify({ signal }),
    'cache.prune': (signal) => cache.prune({ keep: 0, signal }),
    'cache.remove': (signal) => cache.remove(reference, { signal }),
    'cache.lease': (signal) => cache.lease([DIGEST], { signal }),
  };
}

/** A call's own exception, or its rejection. */
async function failure(call: () => Promise<unknown>): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  assert.fail('it did not fail');
}

async function holdGcLock(t: TestContext, cache: GlobalCache): Promise<void> {
  mkdirSync(join(cache.directory, 'leases'), { recursive: true, mode: 0o700 });
  const path = join(cache.directory, 'leases', 'gc.lock');
  const child = spawn('flock', ['--no-fork', path, 'sh', '-c', 'echo held; exec cat']);
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
}

describe('a signal', () => {
  it('that is null or none at all is refused before anything starts', async (t) => {
    const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'a', content: 'a' }]] } } });
    t.after(() => server.close());
    const directory = join(scratch('no-signals'), 'cache');
    const listens = { addEventListener: () => undefined, removeEventListener: () => undefined };
    const wrong = [null, false, 7, 'abort', {}, [], { aborted: false }, { aborted: 'no', ...listens }, () => undefined];
    for (const [name, call] of Object.entries(calls(directory, server.reference('app:1')))) {
      for (const signal of [...wrong, new AbortController()]) {
        const error = await failure(() => call(signal as never));
        assert.ok(error instanceof TypeError, `${name}: ${String(error)}`);
        assert.equal((error as { code?: string }).code, 'ERR_INVALID_ARG_TYPE', name);
        assert.match(error.message, /"options\.signal".*AbortSignal/, name);
      }
    }
    assert.equal(server.requests.length, 0);
    assert.ok(!existsSync(directory), 'nothing was made');
  });

  it('that is aborted already is honoured before anything starts', async (t) => {
    const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'a', content: 'a' }]] } } });
    t.after(() => server.close());
    const directory = join(scratch('aborted'), 'cache');
    const reason = new Error('no longer wanted');
    for (const [name, call] of Object.entries(calls(directory, server.reference('app:1')))) {
      assert.equal(await failure(() => call(AbortSignal.abort(reason) as never)), reason, name);
    }
    assert.equal(server.requests.length, 0);
    assert.ok(!existsSync(directory), 'nothing was made');
  });

  it('stops forty pulls without a warning, and keeps no listener', async (t) => {
    const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'a', content: 'a' }]] } } });
    t.after(() => server.close());
    const warnings: Error[] = [];
    const warn = (warning: Error): void => void warnings.push(warning);
    process.on('warning', warn);
    t.after(() => process.off('warning', warn));
    const registry = new Registry({ cache: scratch('one-signal'), credentials: 'none' });
    const controller = new AbortController();
    const { signal } = controller;
    let listeners = 0;
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
    signal.addEventListener = (...all: Parameters<typeof add>) => {
      listeners += 1;
      add(...all);
    };
    signal.removeEventListener = (...all: Parameters<typeof remove>) => {
      listeners -= 1;
      remove(...all);
    };
    const pulls = (): Promise<unknown>[] =>
      Array.from({ length: 40 }, () => registry.pull(server.reference('app:1'), { signal, policy: 'always' }));
    await Promise.all(pulls());
    assert.equal(listeners, 0);
    server.faults.add({ on: 'manifest', do: 'latency', ms: Infinity });
    const stopped = Promise.allSettled(pulls());
    await sleep(50);
    const since = performance.now();
    controller.abort(new Error('enough'));
    for (const pulled of await stopped) assert.equal(pulled.status, 'rejected');
    assert.ok(performance.now() - since < 1000);
    assert.equal(listeners, 0);
    await sleep(20);
    assert.deepEqual(warnings, []);
  });

  it('stops a lease, a prune and a removal that wait for another process, which time out otherwise', async (t) => {
    if (!requirePrograms(t, 'flock')) return;
    const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'a', content: 'a' }]] } } });
    t.after(() => server.close());
    const cache = new GlobalCache(scratch('stopped'));
    const reference = server.reference('app:1');
    const { layerDigests } = await new Registry({ cache }).pull(reference);
    await holdGcLock(t, cache);
    const waits: Record<string, (wait: WaitOptions) => Promise<unknown>> = {
      lease: (wait) => cache.lease(layerDigests, wait),
      prune: (wait) => cache.prune({ keep: 0, ...wait }),
      remove: (wait) => cache.remove(reference, wait),
    };
    for (const [name, call] of Object.entries(waits)) {
      const error = await failure(() => call({ lockTimeout: 200 }));
      assert.ok(error instanceof ImageError && error.code === 'ERR_LOCK_TIMEOUT', `${name}: ${String(error)}`);
      assert.match(String(error.details?.['path']), /leases\/gc\.lock$/);
      const controller = new AbortController();
      const stopped = failure(() => call({ lockTimeout: null, signal: controller.signal }));
      await sleep(200);
      const since = performance.now();
      const reason = new Error('enough');
      controller.abort(reason);
      assert.equal(await stopped, reason, name);
      assert.ok(performance.now() - since < 250, name);
      for (const lockTimeout of [-1, 1.5, 'long'] as number[]) {
        const wrong = await failure(() => call({ lockTimeout }));
        assert.equal((wrong as { code?: string }).code, 'ERR_INVALID_ARG_TYPE', name);
      }
    }
    assert.notEqual(new Registry({ cache }).pullCached(reference), null, 'nothing was removed');
  });
});
