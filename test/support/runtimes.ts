/** The runtimes that tests run programs under. Bun and Deno come from their npm packages; nothing is downloaded by hand. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
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

function fromPackage(name: string, flags: string[], files: string[]): Runtime {
  const program = files.map((file) => join(modules, file)).find((path) => existsSync(path));
  const missing = program === undefined ? `the npm package ${name} has no binary for this machine` : undefined;
  return { name, program: program ?? name, flags, missing };
}

const cpu = process.arch === 'arm64' ? 'aarch64' : process.arch;

/** All of them. */
export const runtimes: Runtime[] = [
  { name: 'Node', program: process.execPath, flags: [] },
  fromPackage('bun', ['run'], ['bun/bin/bun.exe', `@oven/bun-${process.platform}-${cpu}/bin/bun`]),
  fromPackage(
    'deno',
    ['run', '--allow-all', '--node-modules-dir=manual', '--no-remote', '--quiet'],
    ['deno/deno', `@deno/${process.platform}-${process.arch}-glibc/deno`],
  ),
];
