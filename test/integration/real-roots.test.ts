/**
 * Large real layers from a real registry: a Debian root and a node_modules, made by other people's programs. The trees
 * are held against what Python finds in the archives.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Registry } from 'microsandbox-image';
import { readArchive } from '../support/archive.js';
import { type Corpus, debianRoot, nodeModules } from '../support/corpora.js';
import { addToLayout } from '../support/oci-layout.js';
import { has, must } from '../support/programs.js';
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js';
import { assertSameIndex, assertSameTree } from '../support/same-tree.js';
import { largeScratch } from '../support/scratch.js';
import { readTree } from '../support/trees.js';

const missing = ['docker-registry', 'skopeo', 'python3', 'mmdebstrap'].filter((program) => !has(program));
if (missing.length > 0 && process.env['CI'] !== undefined) throw new Error(`CI lacks ${missing.join(', ')}`);
const skip = missing.length > 0 && `not installed: ${missing.join(', ')}`;

/** MiB of resident memory of the whole Node process, whatever the layer's size. */
const MEMORY_BOUND = 150;

describe('large layers from docker-registry', { skip }, () => {
  const directory = largeScratch('real-roots');
  let server: RealRegistry;
  before(async () => {
    server = await startRealRegistry({ directory: join(directory, 'registry') });
  });
  after(() => server.stop());

  const cacheOf = (name: string): Registry => new Registry({ cache: join(directory, name), credentials: 'none' });

  async function pushCorpus(name: string, corpus: Corpus): Promise<string> {
    const layout = join(directory, `${name}-layout`);
    addToLayout(layout, name, [corpus]);
    await server.push(layout, name, `${name}:1`);
    return `${server.host}/${name}:1`;
  }

  for (const [name, make, least] of [
    ['debian', debianRoot, 6_000],
    ['modules', nodeModules, 50_000],
  ] as const) {
    it(`${name}: every file, owner, mode, time and link is as the archive says, in bounded memory`, async (t) => {
      const corpus = await make();
      const reference = await pushCorpus(name, corpus);
      const { megabytes, seconds } = await pullElsewhere(reference, join(directory, name));
      t.diagnostic(`${name}: pulled in ${seconds.toFixed(2)} s, ${megabytes.toFixed(0)} MiB at the peak`);
      assert.ok(megabytes < MEMORY_BOUND, `${megabytes} MiB of resident memory`);

      const registry = cacheOf(name);
      const [layer = '', ...more] = registry.pullCached(reference)?.layers ?? [];
      assert.equal(more.length, 0);
      const [entries, tree] = [await readArchive(corpus.file), await readTree(layer)];
      assert.ok(entries.length > least, `only ${entries.length} entries`);
      assertSameTree(entries, tree);
      assertSameIndex(registry.cache.layerIndexPath(registry.pullCached(reference)?.layerDigests[0] ?? ''), tree);
    });
  }
});

/** Pulls in a process of its own, since this one holds archives in memory. */
async function pullElsewhere(reference: string, cache: string): Promise<{ megabytes: number; seconds: number }> {
  const script = `
    const { Registry } = require('microsandbox-image');
    const [reference, cache] = process.argv.slice(1);
    const started = process.hrtime.bigint();
    new Registry({ cache, credentials: 'none' }).pull(reference).then(() => {
      const seconds = Number(process.hrtime.bigint() - started) / 1e9;
      const status = require('node:fs').readFileSync('/proc/self/status', 'utf8');
      console.log(JSON.stringify({ seconds, megabytes: Number(/VmHWM:\\s+(\\d+)/.exec(status)[1]) / 1024 }));
    });`;
  return JSON.parse(await must(process.execPath, ['-e', script, reference, cache])) as {
    megabytes: number;
    seconds: number;
  };
}
