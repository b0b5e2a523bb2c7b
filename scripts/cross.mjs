// Builds the addon of each target that this machine can build, for the oldest C library that a release must load on.
//
//   node scripts/cross.mjs [--output-dir target/cross]      all targets
//   node scripts/cross.mjs --only linux-x64-musl            this one; fails if it can't be built
//
// zig compiles the C parts and links, so one machine builds for glibc, for musl and for the other CPU; cargo-zigbuild
// drives it. Where they are not installed they are put into target/cross-tools from PyPI. What can't be built is said,
// with the reason, and the others are built all the same.
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { addTarget, crossTools, failureOf } from './pack/cross-tools.mjs';
import { loadsOnOldest, neededGlibc, OLDEST } from './pack/glibc.mjs';
import { targets } from './pack/targets.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: { 'output-dir': { type: 'string', default: join(root, 'target/cross') }, only: { type: 'string' } },
});
const directory = resolve(values['output-dir']);
mkdirSync(directory, { recursive: true });

const tools = crossTools(join(root, 'target/cross-tools'));
const wanted = targets(root, [directory]).filter(({ name }) => name === (values.only ?? name));
if (wanted.length === 0) throw new Error(`there is no target ${values.only}`);
for (const target of wanted) {
  // An addon of an earlier run must not be taken for one of this.
  rmSync(join(directory, target.file), { force: true });
  const why = whyNot(target) ?? build(target);
  console.log(why === undefined ? `built: ${target.name}` : `not built: ${target.name}: ${why}`);
  if (why !== undefined && values.only !== undefined) process.exitCode = 1;
}

/** Why this machine can't build for a target; undefined if it may be tried. */
function whyNot({ os, triple }) {
  if (os === 'darwin' && process.platform !== 'darwin') return "it links against Apple's SDK, which only macOS has";
  if (os === 'linux' && tools.missing !== undefined) return tools.missing;
  return addTarget(triple);
}

/** Builds, and looks at what was built. Answers with what went wrong. */
function build({ triple, os, libc, file }) {
  const versioned = libc === 'glibc' ? `${triple}.${OLDEST}` : triple;
  const how = os === 'linux' ? ['--cross-compile'] : [];
  const manifest = join('crates', 'node', 'Cargo.toml');
  const what = ['--platform', '--release', '--manifest-path', manifest, '--output-dir', directory, '--no-js'];
  const args = ['napi', 'build', ...what, '--target', versioned, ...how];
  const failure = failureOf('npx', args, { cwd: root, env: tools.env, stdio: ['ignore', 'inherit', 'inherit'] });
  if (failure !== undefined) return failure;
  const path = join(directory, file);
  if (!existsSync(path)) return `the build left no ${file}`;
  if (loadsOnOldest(path)) return isElf(path) || os === 'darwin' ? undefined : `${file} is no ELF file`;
  const needed = neededGlibc(path);
  rmSync(path);
  return `it needs glibc ${needed}, newer than ${OLDEST}`;
}

function isElf(path) {
  return readFileSync(path).subarray(0, 4).toString('latin1') === '\x7fELF';
}
