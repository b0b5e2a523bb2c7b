/**
 * The runtimes that tests run programs under. Bun, Deno and newer releases of Node come from npm packages; nothing is
 * downloaded by hand.
 */
import { existsSync } from 'node:fs';
import { join, relative } from 'node:path';
import { ROOT } from './installed.js';

export interface Runtime {
  readonly name: string;
  readonly program: string;
  /** What goes before the program's file. */
  readonly flags: string[];
  /** Why it can't be used here; undefined if it can. */
  readonly missing?: string;
}

const modules = join(ROOT, 'node_modules');
// Apart from the rest: in the checkout's own node_modules they would be the `node` of every npm script.
const newer = join(ROOT, 'test/runtimes/newer-node');

function oneOf(name: string, flags: string[], files: string[], why: string): Runtime {
  const program = files.find((path) => existsSync(path));
  return { name, program: program ?? name, flags, missing: program === undefined ? why : undefined };
}

function fromPackage(name: string, flags: string[], files: string[]): Runtime {
  const paths = files.map((file) => join(modules, file));
  return oneOf(name, flags, paths, `the npm package ${name} has no binary for this machine`);
}

function newerNode(release: number): Runtime {
  const path = join(newer, `node_modules/node-${release}/bin/node`);
  return oneOf(`Node ${release}`, [], [path], `run npm ci --no-bin-links --prefix ${relative(ROOT, newer)}`);
}

const cpu = process.arch === 'arm64' ? 'aarch64' : process.arch;

/** All of them. */
export const runtimes: Runtime[] = [
  { name: 'Node', program: process.execPath, flags: [] },
  newerNode(24),
  newerNode(26),
  fromPackage('bun', ['run'], ['bun/bin/bun.exe', `@oven/bun-${process.platform}-${cpu}/bin/bun`]),
  fromPackage(
    'deno',
    ['run', '--allow-all', '--node-modules-dir=manual', '--no-remote', '--quiet'],
    ['deno/deno', `@deno/${process.platform}-${process.arch}-glibc/deno`],
  ),
];
