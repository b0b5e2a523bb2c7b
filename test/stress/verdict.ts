/** What must be true in the end: every image right, every lock free, nothing left over. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Registry } from 'microsandbox-image';
import { readTree, type TreeEntry } from '../support/trees.js';
import type { World } from './world.js';

/** Brings every image in once more and looks at all of it. Answers with what is wrong. */
export async function verdict(world: World): Promise<string[]> {
  world.server.faults.clear();
  const wrong = locked(world.cache).map((name) => `${name} is locked though every process has ended`);
  const options = { caCertificates: [world.certificates.ca], lockTimeout: 5000 };
  const registry = new Registry({ cache: world.cache, ...options });
  const fresh = new Registry({ cache: join(world.directory, 'fresh'), ...options });
  for (const image of world.images) {
    const reference = world.server.reference(image);
    const { layers } = await registry.pull(reference, { policy: 'always' });
    const wanted = await fresh.pull(reference);
    for (const [at, path] of layers.entries()) {
      const different = difference(await readTree(path), await readTree(wanted.layers[at]!));
      if (different !== null) wrong.push(`${image}: layer ${at} differs from a new cache's in ${different}: ${path}`);
    }
  }
  const report = await registry.cache.verify({ depth: 'content' });
  wrong.push(...report.problems.map((problem) => JSON.stringify(problem)));
  await registry.cache.prune({ partials: true });
  wrong.push(...leftovers(world.cache).map((name) => `${name} is left over`));
  wrong.push(...locked(world.cache).map((name) => `${name} is locked in the end`));
  return wrong;
}

/**
 * The first path in which a tree is not the one that is wanted, or null. Inodes and times of what no entry describes differ
 * from tree to tree. The original leaves directories that no entry describes without an attribute, and opens directories to
 * all.
 */
function difference(tree: Map<string, TreeEntry>, wanted: Map<string, TreeEntry>): string | null {
  for (const path of new Set([...tree.keys(), ...wanted.keys()])) {
    const [found, right] = [tree.get(path), wanted.get(path)];
    if (found === undefined || right === undefined) return JSON.stringify(path);
    const isDirectory = right.content === null;
    const row = ({ stat, content, hostMode, links, xattrs }: TreeEntry) =>
      isDirectory
        ? [found.stat === null ? null : stat, content, xattrs]
        : [stat, content, hostMode, content === null ? 1 : links, xattrs];
    if (!isDeepStrictEqual(row(found), row(right))) return JSON.stringify(path);
  }
  return null;
}

function files(cache: string): string[] {
  const directories = ['layers', 'images', 'leases'].filter((name) => existsSync(join(cache, name)));
  return directories.flatMap((name) => readdirSync(join(cache, name)).map((file) => join(cache, name, file)));
}

function locked(cache: string): string[] {
  const inodes = readFileSync('/proc/locks', 'utf8').matchAll(/:(\d+) \d+ \S+$/gm);
  const held = new Set([...inodes].map((match) => match[1]));
  return files(cache).filter((path) => held.has(String(statSync(path).ino)));
}

function leftovers(cache: string): string[] {
  return files(cache).filter((path) => /\/\.[^/]*$|\.extracting$|\.part$|\/leases\/(?!gc\.lock$)/.test(path));
}
