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
      const alike = isDeepStrictEqual(comparable(await readTree(path)), comparable(await readTree(wanted.layers[at]!)));
      if (!alike) wrong.push(`${image}: layer ${at} is not what a new cache has: ${path}`);
    }
  }
  const report = await registry.cache.verify({ depth: 'content' });
  wrong.push(...report.problems.map((problem) => JSON.stringify(problem)));
  await registry.cache.prune({ partials: true });
  wrong.push(...leftovers(world.cache).map((name) => `${name} is left over`));
  wrong.push(...locked(world.cache).map((name) => `${name} is locked in the end`));
  return wrong;
}

/** Without what differs from tree to tree: inodes, and times of what no entry describes. */
function comparable(tree: Map<string, TreeEntry>): unknown {
  const rows = [...tree].map(([path, { stat, content, hostMode, links, xattrs }]) => {
    return [path, stat, content, hostMode, content === null ? 1 : links, xattrs] as const;
  });
  return rows.sort(([a], [b]) => (a < b ? -1 : 1));
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
  return files(cache).filter((path) => /\/\.[^/]*$|\.extracting$|\.part$|\/leases\/\d/.test(path));
}
