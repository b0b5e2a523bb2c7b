/**
 * One cache shared with the original crate: what ours pulled, the original answers as a hit, and the other way round;
 * trees, attributes, hard links, metadata and indexes are alike but for the differences named here.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { LayerIndex, Registry } from 'microsandbox-image';
import { tar, type TarEntry } from 'microsandbox-image/testing';
import { type Certificates, makeCertificates } from '../support/certificates.js';
import { addToLayout } from '../support/oci-layout.js';
import { buildOriginal, indexByOriginal, pullWithOriginal } from '../support/original.js';
import { has } from '../support/programs.js';
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js';
import { scratch } from '../support/scratch.js';
import { hardLinkGroups, readTree, type TreeEntry } from '../support/trees.js';

const BASE: TarEntry[] = [
  { path: 'etc', type: 'directory', mode: 0o755, mtime: 1_600_000_000 },
  { path: 'etc/passwd', content: 'root:x:0:0', mode: 0o644, mtime: 1_600_000_001 },
  { path: 'etc/shadow', content: 'secret', mode: 0o640, uid: 0, gid: 42 },
  { path: 'usr', type: 'directory' },
  { path: 'usr/bin', type: 'directory', uid: 5, gid: 6, mode: 0o2775 },
  { path: 'usr/bin/su', content: 'x'.repeat(5000), mode: 0o4755 },
  { path: 'usr/bin/also-su', type: 'hardlink', linkTarget: 'usr/bin/su' },
  { path: 'bin', type: 'symlink', linkTarget: 'usr/bin' },
  { path: 'dev', type: 'directory' },
  { path: 'dev/null', type: 'character', major: 1, minor: 3, mode: 0o666 },
  { path: 'dev/pipe', type: 'fifo', mode: 0o600 },
];
const TOP: TarEntry[] = [
  { path: 'etc/shadow', type: 'whiteout' },
  { path: 'usr/bin', type: 'opaque' },
  { path: 'usr/bin/new', content: 'new', mode: 0o755 },
];

const missing = ['docker-registry', 'skopeo', 'openssl', 'python3', 'cargo'].filter((program) => !has(program));
if (missing.length > 0 && process.env['CI'] !== undefined) throw new Error(`CI lacks ${missing.join(', ')}`);

describe(
  'a cache shared with the original',
  { skip: missing.length > 0 && `not installed: ${missing.join(', ')}` },
  () => {
    const directory = scratch('sharing');
    let certificates: Certificates;
    let server: RealRegistry;
    let reference: string;

    before(async () => {
      certificates = makeCertificates();
      await buildOriginal();
      const tls = { certPath: certificates.certPath, keyPath: certificates.keyPath };
      server = await startRealRegistry({ directory: join(directory, 'registry'), tls });
      const layout = join(directory, 'layout');
      addToLayout(layout, 'shared', [{ tar: tar(BASE) }, { tar: tar(TOP) }], ['SHARED=1']);
      await server.push(layout, 'shared', 'shared:1');
      reference = `${server.host}/shared:1`;
    });
    after(async () => {
      await server.stop();
      certificates.remove();
    });

    const ours = (cache: string): Registry =>
      new Registry({ cache, caCertificates: readFileSync(certificates.caPath) });

    it('what ours pulled the original answers from the cache', async () => {
      const cache = join(directory, 'ours-first');
      const pulled = await ours(cache).pull(reference);
      const hit = await pullWithOriginal(reference, cache, certificates.caPath, 'never');
      assert.deepEqual(
        [hit.cached, hit.layers, hit.manifestDigest, hit.env],
        [true, pulled.layers, pulled.manifestDigest, pulled.config.env],
      );
    });

    it('what ours pulled without keeping blobs the original answers and reuses', async () => {
      const cache = join(directory, 'no-blobs');
      const { layerDigests, layers } = await ours(cache).pull(reference, { keepBlobs: false });
      assert.ok(layerDigests.every((digest) => !existsSync(ours(cache).cache.layerBlobPath(digest))));
      assert.equal((await pullWithOriginal(reference, cache, certificates.caPath, 'never')).cached, true);
      const again = await pullWithOriginal(reference, cache, certificates.caPath, 'always');
      assert.deepEqual(again.layers, layers);
      assert.equal(ours(cache).pullCached(reference)?.cached, true);
    });

    it('what the original pulled ours answers from the cache', async () => {
      const cache = join(directory, 'original-first');
      const pulled = await pullWithOriginal(reference, cache, certificates.caPath);
      const hit = ours(cache).pullCached(reference);
      assert.deepEqual(
        [hit?.cached, hit?.layers, hit?.manifestDigest, hit?.config.env],
        [true, pulled.layers, pulled.manifestDigest, pulled.env],
      );
      const result = await ours(cache).pull(reference, { policy: 'never' });
      assert.equal(result.cached, true);
    });

    it('both make the same trees', async () => {
      const [a, b] = [join(directory, 'ours-first'), join(directory, 'original-first')];
      const layers = (ours(a).pullCached(reference)?.layers ?? []).map((layer) => layer.slice(a.length));
      assert.equal(layers.length, 2);
      for (const layer of layers) {
        const [left, right] = [await readTree(a + layer), await readTree(b + layer)];
        assert.deepEqual([...left.keys()].sort(), [...right.keys()].sort());
        // Different on purpose: the original leaves a layer's root open to others, ours is its owner's alone.
        assert.deepEqual([left.get('')?.hostMode, right.get('')?.hostMode], [0o700, 0o755]);
        right.set('', { ...right.get('')!, hostMode: 0o700 });
        for (const [path, entry] of left) assert.deepEqual(comparable(entry), comparable(right.get(path)), path);
        assert.deepEqual(hardLinkGroups(left), hardLinkGroups(right));
        // Different on purpose: the original leaves the host's time, ours keeps the image's.
        const times = [left, right].map((tree) => tree.get('etc')?.mtime);
        if (layer === layers[0]) assert.deepEqual([times[0], times[1] === times[0]], ['1600000000000000000', false]);
      }
    });

    it('both write the same metadata, ours with more fields', () => {
      const file = ours(join(directory, 'ours-first')).cache.imageMetadataPath(reference);
      const mine = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
      const theirs = JSON.parse(readFileSync(file.replace('ours-first', 'original-first'), 'utf8')) as Record<
        string,
        unknown
      >;
      for (const [key, value] of Object.entries(theirs)) assert.deepEqual(mine[key], value, key);
      const more = Object.keys(mine).filter((key) => !(key in theirs));
      assert.ok(more.includes('reference') && more.includes('raw_manifest'), String(more));
    });

    it("the original's reader accepts our index, and ours the original's", async () => {
      const caches = [join(directory, 'ours-first'), join(directory, 'original-first')];
      const digests = ours(caches[0] ?? '').pullCached(reference)?.layerDigests ?? [];
      for (const digest of digests) {
        const files = caches.map((cache) => ours(cache).cache.layerIndexPath(digest));
        const [mine, theirs] = await Promise.all(files.map((file) => indexByOriginal(file)));
        assert.ok(mine !== undefined && theirs !== undefined);
        // Directory records are equal, and so are names, types and permissions of entries.
        // Different on purpose: the original indexes a layer before directories that no entry described got their modes,
        // so its index of the top layer is behind its own tree.
        const stale = theirs.directories.find(({ path }) => path === 'usr')?.entries.find(({ name }) => name === 'bin');
        if (digest === digests[1] && stale !== undefined) {
          assert.equal(stale.mode, 0o040755);
          stale.mode = 0o042775;
        }
        const shape = (index: typeof mine) =>
          index.directories.map(({ path, opaque, entries }) => ({
            path,
            opaque,
            entries: entries.map(({ name, mode, whiteout, directory }) => ({
              name,
              mode: typed(mode),
              whiteout,
              directory,
            })),
          }));
        assert.deepEqual(shape(mine), shape(theirs));
        // Different on purpose: ours has real inodes, lengths, owners and hard links, the original has made-up ones.
        const su = mine.directories.find(({ path }) => path === 'usr/bin')?.entries.find(({ name }) => name === 'su');
        if (su !== undefined) {
          assert.deepEqual([su.size, su.mode], [5000, 0o104755]);
          assert.deepEqual(
            mine.hardLinks.map(({ path }) => path),
            ['usr/bin/also-su', 'usr/bin/su'],
          );
          assert.deepEqual(theirs.hardLinks, []);
        }
        for (const file of files) assert.notEqual(LayerIndex.open(file).directory(''), null);
      }
    });

    it('the list of implicit directories stays where ours pulled and goes where the original did', () => {
      const digest = ours(join(directory, 'ours-first')).pullCached(reference)?.layerDigests[1] ?? '';
      const lists = ['ours-first', 'original-first'].map((name) =>
        ours(join(directory, name)).cache.layerImplicitDirsPath(digest),
      );
      assert.deepEqual(
        lists.map((list) => existsSync(list)),
        [true, false],
      );
    });
  },
);

/** Devices are regular files in the original's index; only files, directories and links can be compared. */
function typed(mode: number): number {
  const type = mode & 0o170000;
  return [0o040000, 0o120000].includes(type) ? mode : 0o100000 | (mode & 0o7777);
}

function comparable(entry: TreeEntry | undefined): unknown {
  return entry && { stat: entry.stat, content: entry.content, hostMode: entry.hostMode, xattrs: entry.xattrs };
}
