// An image of real files: this checkout's node_modules below, its own sources on top.
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { image, layer } from 'microsandbox-image/testing';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Packing speed matters more here than the last byte. */
const LEVEL = 1;
const LARGEST_FILE = 4 * 1024 * 1024;

/** Returns the image, and a line about it. */
export function imageOfThisCheckout() {
  const below = [
    { path: 'etc', type: 'directory' },
    { path: 'etc/os-release', content: 'ID=demo\nPRETTY_NAME="A checkout in a box"\n' },
    { path: 'bin', type: 'symlink', linkTarget: 'usr/bin' },
    { path: 'usr/bin', type: 'directory' },
    { path: 'usr/bin/mount', content: '#!/bin/sh\n', mode: 0o4755 },
    { path: 'dev/null', type: 'character', major: 1, minor: 3, mode: 0o666 },
    ...entriesOf(join(root, 'node_modules'), 'usr/lib/node_modules'),
  ];
  const above = [
    ...entriesOf(join(root, 'src'), 'app/src', { uid: 1000, gid: 1000 }),
    { path: 'app/LICENSE', content: readFileSync(join(root, 'LICENSE')), uid: 1000, gid: 1000 },
    { path: 'app/src/LICENSE', type: 'hardlink', linkTarget: 'app/LICENSE' },
    { path: 'app/COPYING', type: 'hardlink', linkTarget: 'app/LICENSE' },
    { path: 'app/modules', type: 'symlink', linkTarget: '../usr/lib/node_modules' },
    { path: 'usr/lib/node_modules/prettier', type: 'whiteout' },
  ];
  const layers = [below, above].map((entries) => layer({ entries, level: LEVEL }));
  const built = image({
    layers,
    config: { Env: ['PATH=/usr/bin:/bin'], WorkingDir: '/app', User: '1000', Cmd: ['node', 'src/index.ts'] },
  });
  const megabytes = (layers.reduce((sum, each) => sum + each.size, 0) / 1e6).toFixed(1);
  const facts =
    `${below.length + above.length} entries, ${megabytes} MB packed; among them symbolic links, three names of one file, ` +
    'a device, a setuid program, and a whiteout that hides node_modules/prettier';
  return { image: built, facts };
}

/** All that is in a directory, in a fixed order, as entries under `as`. */
function entriesOf(directory, as, owner = {}) {
  const entries = [{ path: as, type: 'directory', ...owner }];
  for (const name of readdirSync(directory).sort()) {
    const [from, path] = [join(directory, name), `${as}/${name}`];
    const stat = lstatSync(from);
    const facts = { path, mode: stat.mode & 0o7777, mtime: Math.floor(stat.mtimeMs / 1000), ...owner };
    if (stat.isDirectory()) entries.push(...entriesOf(from, path, owner));
    else if (stat.isSymbolicLink()) entries.push({ ...facts, type: 'symlink', linkTarget: readlinkSync(from) });
    else if (stat.isFile() && stat.size <= LARGEST_FILE) entries.push({ ...facts, content: readFileSync(from) });
  }
  return entries;
}
