// The targets there are packages for, from the list in package.json that the addon is built by.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const CPUS = { x86_64: 'x64', aarch64: 'arm64' };
const LIBCS = { gnu: 'glibc', musl: 'musl' };

/** What a Rust target is called in file and package names, and where npm may install it. */
function targetOf(triple) {
  const [machine, vendor, system, libc] = triple.split('-');
  const cpu = CPUS[machine];
  if (vendor === 'apple') return { triple, name: `darwin-${cpu}`, os: 'darwin', cpu };
  if (system === 'linux') return { triple, name: `linux-${cpu}-${libc}`, os: 'linux', cpu, libc: LIBCS[libc] };
  throw new Error(`no package is made for ${triple}`);
}

/** All targets, each with the path of its addon in the first of the directories that has it, and whether one has. */
export function targets(root, directories) {
  const { napi } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return napi.targets.map((triple) => {
    const target = targetOf(triple);
    const file = `${napi.binaryName}.${target.name}.node`;
    const path = directories.map((directory) => join(directory, file)).find((candidate) => existsSync(candidate));
    return { ...target, packageName: `${napi.packageName}-${target.name}`, file, path, built: path !== undefined };
  });
}

/** Whether npm on this machine installs a target's package. */
export function runsHere({ os, cpu, libc }) {
  if (os !== process.platform || cpu !== process.arch) return false;
  if (libc === undefined) return true;
  const { glibcVersionRuntime } = process.report.getReport().header;
  return libc === (glibcVersionRuntime === undefined ? 'musl' : 'glibc');
}
