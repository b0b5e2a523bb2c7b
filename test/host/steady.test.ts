/** The host process stays as it was: memory, handles and file descriptors after many calls; and it can end. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { GlobalCache, ImageError, Registry } from 'microsandbox-image';
import { startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { scratch } from '../support/scratch.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

interface Counts {
  /** Bytes of the JavaScript heap after a collection. */
  heap: number;
  /** Bytes the process has in memory. */
  resident: number;
  /** What keeps the event loop alive. */
  handles: number;
  /** Open file descriptors. */
  descriptors: number;
}

async function count(): Promise<Counts> {
  for (let round = 0; round < 4; round++) {
    collect();
    // Finalisers of native values run between turns of the event loop.
    await sleep(25);
  }
  const { heapUsed, rss } = process.memoryUsage();
  return {
    heap: heapUsed,
    resident: rss,
    handles: process.getActiveResourcesInfo().filter((name) => !/^(Timeout|PipeWrap|TTYWrap)$/.test(name)).length,
    descriptors: process.platform === 'linux' ? readdirSync('/proc/self/fd').length : 0,
  };
}

async function serve(t: { after: (clean: () => Promise<void>) => void }): Promise<TestRegistry> {
  const server = await startRegistry({
    images: { 'app:1': { layers: [[{ path: 'etc/motd', content: 'hello' }], [{ path: 'opt/x', content: 'x' }]] } },
  });
  t.after(() => server.close());
  return server;
}

/** Runs `work` often and says by how much the counts grew, after a first part that fills caches and pools. */
async function growth(rounds: number, work: (round: number) => unknown): Promise<Counts> {
  for (let round = 0; round < rounds / 4; round++) await work(round);
  const before = await count();
  for (let round = 0; round < rounds; round++) await work(round);
  const after = await count();
  return {
    heap: after.heap - before.heap,
    resident: after.resident - before.resident,
    handles: after.handles - before.handles,
    descriptors: after.descriptors - before.descriptors,
  };
}

const MIB = 2 ** 20;

describe('the host process', () => {
  it('stays flat over 10,000 answers from the cache', async (t) => {
    const server = await serve(t);
    const registry = new Registry({ cache: scratch('flat-hits'), credentials: 'none' });
    const reference = server.reference('app:1');
    await registry.pull(reference);
    const grown = await growth(10_000, () => registry.pullCached(reference));
    t.diagnostic(`10,000 calls: ${JSON.stringify(grown)}`);
    assert.ok(grown.heap < MIB, `the heap grew by ${grown.heap} bytes`);
    assert.ok(grown.resident < 16 * MIB, `the process grew by ${grown.resident} bytes`);
    assert.ok(grown.handles <= 0 && grown.descriptors <= 0, JSON.stringify(grown));
  });

  it('stays flat over 200 pulls, iterated, awaited, failed and stopped', async (t) => {
    const server = await serve(t);
    const registry = new Registry({ cache: scratch('flat-pulls'), credentials: 'none' });
    const reference = server.reference('app:1');
    const grown = await growth(200, async (round) => {
      const controller = new AbortController();
      const options = { policy: 'always', force: round % 10 === 0, signal: controller.signal } as const;
      if (round % 4 === 0) {
        const failed: unknown = await registry.pull(server.reference('none:1')).catch((error: unknown) => error);
        assert.ok(failed instanceof ImageError && failed.code === 'ERR_NOT_FOUND', String(failed));
      } else if (round % 4 === 1) {
        const stopped = registry.pull(reference, options);
        controller.abort();
        await assert.rejects(stopped, { name: 'AbortError' });
      } else if (round % 4 === 2) {
        for await (const event of registry.pull(reference, options)) assert.ok(event.type.length > 0);
      } else {
        await registry.pull(reference, options);
      }
    });
    t.diagnostic(`200 pulls: ${JSON.stringify(grown)}`);
    assert.ok(grown.heap < 2 * MIB, `the heap grew by ${grown.heap} bytes`);
    assert.ok(grown.resident < 32 * MIB, `the process grew by ${grown.resident} bytes`);
    // Idle connections to the registry may be kept for the next pull; they don't grow with the number of pulls.
    assert.ok(grown.handles <= 4 && grown.descriptors <= 8, JSON.stringify(grown));
  });

  it('throws TypeError with ERR_INVALID_ARG_TYPE for wrong types, as Node itself does', () => {
    const registry = new Registry({ cache: scratch('types'), credentials: 'none' });
    const wrong = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' };
    for (const value of [undefined, null, 7, {}, [], Symbol('x'), () => 'alpine'] as unknown as string[]) {
      assert.throws(() => registry.pull(value), wrong);
      assert.throws(() => registry.pullCached(value), wrong);
      assert.throws(() => registry.cache.imageMetadataPath(value), wrong);
    }
    for (const value of [null, 7, {}] as unknown as string[]) {
      assert.throws(() => new GlobalCache(value), wrong);
    }
    assert.throws(() => new Registry(null as never), wrong);
    assert.throws(() => new Registry({ retries: 'many' as never }), wrong);
  });
});
