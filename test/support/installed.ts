/**
 * The package as a user gets it: packed, and installed into an empty folder outside the checkout, without network.
 * What runs there is started as a process of its own; nothing is imported from the checkout.
 */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { must } from './programs.js';

export const ROOT = join(__dirname, '..', '..');

export interface Installed {
  /** The folder with `node_modules`. */
  readonly directory: string;
  /** The packed files, the main package last. */
  readonly packed: string[];
  /** Writes a program into the folder and answers with its path. */
  write(name: string, text: string): string;
}

/** Packs and installs below `base`. Takes a few seconds: once for a test file. */
export async function install(base: string): Promise<Installed> {
  const [packs, directory] = [join(base, 'packs'), join(base, 'app')];
  await must(process.execPath, [join(ROOT, 'scripts/pack.mjs'), '--destination', packs]);
  // Packages of other machines lie in a folder of their own.
  const names = readdirSync(packs)
    .filter((name) => name.endsWith('.tgz'))
    .sort((a, b) => b.length - a.length);
  const packed = names.map((name) => join(packs, name));
  mkdirSync(directory);
  writeFileSync(join(directory, 'package.json'), '{ "private": true }\n');
  // An empty cache and no network: everything must be in the packed files.
  const offline = ['--offline', '--cache', join(base, 'npm-cache'), '--no-audit', '--no-fund', '--no-update-notifier'];
  await must('npm', ['install', ...offline, ...packed], { cwd: directory });
  return {
    directory,
    packed,
    write(name, text) {
      const path = join(directory, name);
      writeFileSync(path, text);
      return path;
    },
  };
}
