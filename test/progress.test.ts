/** Progress for programs: what is told, how often, and what a reader may do to it. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, it, type TestContext } from 'node:test';
import { type PullProgress, Registry } from 'microsandbox-image';
import { type BuiltLayer, layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { requirePrograms } from './support/programs.js';
import { scratch } from './support/scratch.js';

const SIZE = 400_000;
const [a, b] = ['a', 'b'].map((path) => layer([{ path, content: randomBytes(SIZE) }])) as [BuiltLayer, BuiltLayer];

async function serve(t: TestContext): Promise<{ server: TestRegistry; registry: Registry; reference: string }> {
  const server = await startRegistry({ images: { 'app:1': { layers: [a, b] }, 'base:1': { layers: [a] } } });
  t.after(() => server.close());
  return { server, registry: new Registry({ cache: scratch('progress') }), reference: server.reference('app:1') };
}

type Of<T extends PullProgress['type']> = Extract<PullProgress, { type: T }>;

function of<T extends PullProgress['type']>(events: PullProgress[], type: T): Of<T>[] {
  return events.filter((event): event is Of<T> => event.type === type);
}

/** Every change of state of every layer, in its order, and the end last. */
function assertWhole(events: PullProgress[], layers: number): void {
  const states = ['layer-extract-started', 'layer-extract-complete', 'layer-index-started', 'layer-index-complete'];
  for (let at = 0; at < layers; at++) {
    const told = events.filter((event) => 'layerIndex' in event && event.layerIndex === at).map(({ type }) => type);
    assert.deepEqual(
      told.filter((type) => states.includes(type)),
      states,
      `layer ${at}`,
    );
    assert.equal(told.filter((type) => type === 'layer-download-complete').length, 1);
  }
  assert.deepEqual([events[0]?.type, events.at(-1)?.type], ['resolving', 'complete']);
}

/** Counts never go back, and end with what was promised. */
function assertMonotone(events: PullProgress[]): void {
  const last = new Map<number, number>();
  for (const event of events) {
    if (event.type !== 'layer-download-progress' && event.type !== 'layer-download-complete') continue;
    assert.ok(event.downloadedBytes >= (last.get(event.layerIndex) ?? 0), JSON.stringify(event));
    last.set(event.layerIndex, event.downloadedBytes);
  }
  const sum = [...last.values()].reduce((sum, bytes) => sum + bytes, 0);
  assert.equal(of(events, 'resolved')[0]?.totalDownloadBytes, sum);
}

async function collect(pull: AsyncIterable<PullProgress>): Promise<PullProgress[]> {
  const events: PullProgress[] = [];
  for await (const event of pull) events.push(event);
  return events;
}

describe('the events of a pull', () => {
  it('come about ten times a second for each layer, never go back, and leave no state out', async (t) => {
    const { server, registry, reference } = await serve(t);
    server.faults.add({ on: 'blob', skip: 1, do: 'slow', bytesPerSecond: 250_000 });
    const started = performance.now();
    const events = await collect(registry.pull(reference));
    const seconds = (performance.now() - started) / 1000;
    assertWhole(events, 2);
    assertMonotone(events);
    assert.ok(seconds > 1, 'slow enough to count');
    for (const at of [0, 1]) {
      const counts = of(events, 'layer-download-progress').filter(({ layerIndex }) => layerIndex === at);
      assert.ok(counts.length >= 4 && counts.length <= seconds * 10 + 2, `${counts.length} in ${seconds} s`);
    }
  });

  it('count no bytes that the cache has', async (t) => {
    const { server, registry, reference } = await serve(t);
    await registry.pull(server.reference('base:1'));
    const events = await collect(registry.pull(reference));
    assertMonotone(events);
    assert.equal(of(events, 'resolved')[0]?.totalDownloadBytes, b.size);
    assert.ok(!of(events, 'layer-download-complete').some(({ layerIndex }) => layerIndex === 0));
    const hit = await collect(registry.pull(reference));
    assert.equal(of(hit, 'resolved')[0]?.totalDownloadBytes, 0);
  });

  it('are all there for a reader that is slow, and the pull does not wait for it', async (t) => {
    const { registry, reference } = await serve(t);
    const pull = registry.pull(reference);
    let settled = 0;
    void pull.then(() => (settled = performance.now()));
    const events: PullProgress[] = [];
    for await (const event of pull) {
      events.push(event);
      await sleep(100);
    }
    const read = performance.now();
    assertWhole(events, 2);
    assertMonotone(events);
    assert.ok(settled > 0 && read - settled > 300, `the pull was done ${read - settled} ms before its reader`);
  });

  it('are all there for a reader that comes when the pull is done', async (t) => {
    const { registry, reference } = await serve(t);
    const pull = registry.pull(reference);
    await pull;
    const events = await collect(pull);
    assertWhole(events, 2);
    assertMonotone(events);
    assert.ok(events.length < 40, 'counts that nobody read were merged');
  });

  it('tell of a lock that another process holds, and by whom', async (t) => {
    if (!requirePrograms(t, 'flock')) return;
    const { registry, reference } = await serve(t);
    await registry.pull(reference);
    await registry.cache.deleteImageMetadata(reference);
    const path = registry.cache.imageLockPath(reference);
    const holder = spawn('flock', ['--no-fork', path, 'sh', '-c', 'echo held; exec sleep 20'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await once(holder.stdout, 'data');
      const events: PullProgress[] = [];
      for await (const event of registry.pull(reference)) {
        events.push(event);
        if (event.type === 'lock-waiting') holder.kill('SIGKILL');
      }
      assert.deepEqual(of(events, 'lock-waiting'), [{ type: 'lock-waiting', path, holder: holder.pid }]);
      assert.equal(events.at(-1)?.type, 'complete');
    } finally {
      holder.kill('SIGKILL');
    }
  });

  it('tell of tries that fail, and the count goes on where it was', async (t) => {
    const { server, registry, reference } = await serve(t);
    server.faults.add({ on: 'blob', skip: 1, times: 1, do: 'cut', after: 100_000 });
    const events = await collect(registry.pull(reference));
    assert.equal(of(events, 'retrying').length, 1);
    assertWhole(events, 2);
    assertMonotone(events);
  });

  it('end with the failure, where it fails, and without `complete`', async (t) => {
    const { server, registry, reference } = await serve(t);
    server.faults.add({ on: 'blob', skip: 1, do: 'wrong-bytes', at: 20 });
    const events: PullProgress[] = [];
    await assert.rejects(
      async () => {
        for await (const event of registry.pull(reference)) events.push(event);
      },
      { code: 'ERR_DIGEST_MISMATCH' },
    );
    assert.equal(of(events, 'complete').length, 0);
  });
});
