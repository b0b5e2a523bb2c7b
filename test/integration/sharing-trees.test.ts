/**
 * Layers that inherit from those below them, in a cache shared with the original crate. It knows the base tree alone: it
 * rewrites owners of directories there in place, and leaves out links to lower layers. Ours promise by trees of their own.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type PullResult, readStat, Registry } from 'microsandbox-image';
import { tar, type TarEntry } from 'microsandbox-image/testing';
import { type Certificates, makeCertificates } from '../support/certificates.js';
import { addToLayout } from '../support/oci-layout.js';
import { buildOriginal, type OriginalResult, pullWithOriginal } from '../support/original.js';
import { has } from '../support/programs.js';
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js';
import { scratch } from '../support/scratch.js';
import { readTree } from '../support/trees.js';

/** A base whose `usr/bin` belongs to somebody. */
const base = (uid: number): TarEntry[] => [
  { path: 'usr', type: 'directory' },
  { path: 'usr/bin', type: 'directory', uid, gid: uid, mode: 0o755 },
  { path: 'usr/bin/su', content: `su of ${uid}`, mode: 0o4755 },
];
/** Layers without entries for the directories that their files are in, the second with a link to a file below. */
const TOOL: TarEntry[] = [{ path: 'usr/bin/tool', content: 'tool', mode: 0o755 }];
const LINKED: TarEntry[] = [
  { path: 'usr/bin/also-su', type: 'hardlink', linkTarget: 'usr/bin/su' },
  { path: 'usr/links/su', type: 'hardlink', linkTarget: 'usr/bin/su' },
  { path: 'usr/bin/other', content: 'other' },
];
const [ONE, TWO] = [5, 7];

const missing = ['docker-registry', 'skopeo', 'openssl', 'python3', 'cargo'].filter((program) => !has(program));
if (missing.length > 0 && process.env['CI'] !== undefined) throw new Error(`CI lacks ${missing.join(', ')}`);

describe(
  'layers that inherit, in a cache shared with the original',
  { skip: missing.length > 0 && `not installed: ${missing.join(', ')}` },
  () => {
    const directory = scratch('sharing-trees');
    let certificates: Certificates;
    let server: RealRegistry;

    before(async () => {
      certificates = makeCertificates();
      await buildOriginal();
      const tls = { certPath: certificates.certPath, keyPath: certificates.keyPath };
      server = await startRealRegistry({ directory: join(directory, 'registry'), tls });
      const layout = join(directory, 'layout');
      for (const [name, lower, upper] of [
        ['one', base(ONE), TOOL],
        ['two', base(TWO), TOOL],
        ['linked', base(ONE), LINKED],
      ] as const) {
        addToLayout(layout, name, [{ tar: tar(lower) }, { tar: tar(upper) }], [`IMAGE=${name}`]);
        await server.push(layout, name, `${name}:1`);
      }
    });
    after(async () => {
      await server.stop();
      certificates.remove();
    });

    const at = (name: string): string => `${server.host}/${name}:1`;
    /** A cache of its own, and both programs on it. */
    const open = (name: string) => {
      const cache = join(directory, name);
      const ours = new Registry({ cache, caCertificates: readFileSync(certificates.caPath) });
      const original = (image: string, policy?: 'always' | 'never'): Promise<OriginalResult> =>
        pullWithOriginal(at(image), cache, certificates.caPath, policy);
      return { ours, original };
    };
    const top = ({ layers }: { layers: string[] }): string => layers[1] ?? '';
    const owner = (result: { layers: string[] }): number | undefined => readStat(join(top(result), 'usr/bin'))?.uid;
    const baseOf = (ours: Registry, { layerDigests }: PullResult): string => ours.cache.layerDir(layerDigests[1] ?? '');
    const everything = async (result: PullResult) =>
      Promise.all(result.layers.map(async (layer) => [...(await readTree(layer))]));

    it('of what ours pulled for two images the original answers the base tree', async () => {
      const { ours, original } = open('ours-first');
      const [one, two] = [await ours.pull(at('one')), await ours.pull(at('two'))];
      assert.deepEqual([owner(one), owner(two)], [ONE, TWO]);
      assert.equal(top(one), baseOf(ours, one));
      assert.notEqual(top(two), top(one));
      for (const [name, result] of Object.entries({ one, two })) {
        const hit = await original(name, 'never');
        assert.deepEqual(
          [hit.cached, hit.manifestDigest, hit.layers],
          [true, result.manifestDigest, [result.layers[0], baseOf(ours, result)]],
        );
      }
      // The other image's owner, and the same files: the original shares a layer's tree between images.
      assert.equal(owner(await original('two', 'never')), ONE);
    });

    it('what the original rewrites in the base changes no tree that ours made for an image', async () => {
      const { ours, original } = open('rewritten');
      const [one, two] = [await ours.pull(at('one')), await ours.pull(at('two'))];
      const before = await everything(two);
      await original('two', 'always');
      assert.equal(owner(one), TWO, 'the original rewrites the base in place');
      assert.deepEqual(await everything(two), before);
      // The original replaced the metadata of `two`: it is a hit in the base, which now has the values of `two`.
      assert.equal(owner(ours.pullCached(at('two')) ?? assert.fail()), TWO);
      assert.equal(owner(await ours.pull(at('two'), { policy: 'always' })), TWO);
      assert.deepEqual(await everything(two), before);
    });

    it('the next pull of ours compares what stands in the base, and a tree of its own takes its place', async () => {
      const { ours, original } = open('compared');
      await ours.pull(at('one'));
      await original('two', 'always');
      // Hits trust the metadata; verify tells the difference, which is no damage.
      const hit = ours.pullCached(at('one')) ?? assert.fail();
      assert.deepEqual([hit.cached, owner(hit)], [true, TWO]);
      const report = await ours.cache.verify({ depth: 'content' });
      const layer = hit.layerDigests[1] ?? '';
      assert.deepEqual([report.ok, report.problems], [true, []]);
      assert.deepEqual(
        report.skipped.filter((skipped) => skipped.layer === layer),
        [{ layer, reason: 'made-by-original' }],
      );
      const again = await ours.pull(at('one'), { policy: 'always' });
      assert.equal(owner(again), ONE);
      assert.notEqual(top(again), baseOf(ours, again));
      assert.equal(top(ours.pullCached(at('one')) ?? assert.fail()), top(again));
      assert.equal(owner(ours.pullCached(at('two')) ?? assert.fail()), TWO);
    });

    it('a layer with links to lower layers is extracted anew by the original, without them, and ours stays', async () => {
      const { ours, original } = open('linked');
      const pulled = await ours.pull(at('linked'));
      const before = await everything(pulled);
      assert.equal(readFileSync(join(top(pulled), 'usr/bin/also-su'), 'utf8'), `su of ${ONE}`);
      assert.equal(ours.cache.isExtracted(pulled.layerDigests[1] ?? ''), false);
      await assert.rejects(original('linked', 'never'));
      const theirs = await original('linked');
      assert.deepEqual([theirs.cached, theirs.layers], [false, [pulled.layers[0], baseOf(ours, pulled)]]);
      assert.deepEqual(
        ['bin/other', 'bin/also-su', 'links'].map((name) => existsSync(join(top(theirs), 'usr', name))),
        [true, false, false],
      );
      assert.deepEqual(await everything(pulled), before);
      // Metadata that the original wrote name the base, which is never right for such a layer: a miss, and nothing is fetched.
      assert.equal(ours.pullCached(at('linked')), null);
      const again = await ours.pull(at('linked'));
      assert.deepEqual(again.layers, pulled.layers);
      assert.deepEqual(ours.pullCached(at('linked'))?.layers, pulled.layers);
      assert.deepEqual(await everything(again), before);
    });

    it('a layer with links to lower layers that the original pulled is a hit, and right after the next pull', async () => {
      const { ours, original } = open('original-linked');
      const theirs = await original('linked');
      const hit = ours.pullCached(at('linked')) ?? assert.fail();
      assert.deepEqual([hit.layers, existsSync(join(top(hit), 'usr/bin/also-su'))], [theirs.layers, false]);
      const pulled = await ours.pull(at('linked'), { policy: 'always' });
      assert.notEqual(top(pulled), top(theirs));
      assert.equal(readFileSync(join(top(pulled), 'usr/bin/also-su'), 'utf8'), `su of ${ONE}`);
      assert.deepEqual(ours.pullCached(at('linked'))?.layers, pulled.layers);
    });

    it('of what the original pulled for two images ours answers both, and the next pull puts right what it rewrote', async () => {
      const { ours, original } = open('original-first');
      const [one, two] = [await original('one'), await original('two')];
      assert.deepEqual(ours.pullCached(at('one'))?.layers, one.layers);
      assert.deepEqual(ours.pullCached(at('two'))?.layers, two.layers);
      // The original deletes its list once it is done, so its second image has what the first one inherited.
      assert.equal(owner(two), ONE);
      const pulled = await ours.pull(at('two'), { policy: 'always' });
      assert.equal(owner(pulled), TWO);
      assert.equal(owner(ours.pullCached(at('one')) ?? assert.fail()), ONE);
      assert.equal(owner(await ours.pull(at('one'), { policy: 'always' })), ONE);
    });

    it('verify tells the trees of the original apart from damage', async () => {
      const { ours, original } = open('verified');
      await original('one');
      await original('linked');
      const report = await ours.cache.verify({ depth: 'content' });
      assert.deepEqual([report.ok, report.problems], [true, []]);
      const reasons = new Set(report.skipped.map(({ reason }) => reason));
      assert.deepEqual([...reasons], ['made-by-original'], JSON.stringify(report.skipped));
      // What the layer has, and the original would not have left out, is missed.
      rmSync(join(top(await original('linked')), 'usr/bin/other'));
      const damaged = await ours.cache.verify({ depth: 'content' });
      assert.deepEqual(
        damaged.problems.map(({ kind, path }) => [kind, path.endsWith('/usr/bin/other')]),
        [['missing-file', true]],
      );
    });
  },
);
