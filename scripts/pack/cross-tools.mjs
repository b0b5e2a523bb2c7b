// What a cross build needs beside Rust: zig and cargo-zigbuild, and Rust's standard library of the target.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Versions that were seen to build all targets. */
const PACKAGES = ['ziglang==0.15.2', 'cargo-zigbuild==0.24.1'];
/** Long enough for a slow network, short enough to be told that there is none. */
const PATIENCE = 180_000;

/** Runs a program; answers with a line that says why it failed, or undefined. */
export function failureOf(program, args, options = {}) {
  const { status, error, stderr } = spawnSync(program, args, { encoding: 'utf8', ...options });
  if (error !== undefined)
    return error.code === 'ENOENT' ? `${program} is not installed` : `${program}: ${error.message}`;
  if (status === 0) return undefined;
  const lines = (stderr ?? '').trim().split('\n');
  const said = lines.find((line) => /^error/i.test(line)) ?? lines.at(-1) ?? '';
  return `${program} ${args.slice(0, 3).join(' ')} ended with ${status}${said && `: ${said}`}`;
}

/**
 * The environment to build in: with the tools that are installed, or with those in `folder`, where they are put at
 * the first call. `missing` says why there are none.
 */
export function crossTools(folder) {
  const installed = failureOf('cargo-zigbuild', ['--version']) ?? failureOf('zig', ['version']);
  if (installed === undefined) return { env: process.env };
  const bin = join(folder, 'bin');
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` };
  if (existsSync(join(bin, 'cargo-zigbuild'))) return { env };
  const options = { timeout: PATIENCE };
  const failed =
    failureOf('python3', ['-m', 'venv', folder], options) ??
    failureOf(join(bin, 'pip'), ['install', '--quiet', '--disable-pip-version-check', ...PACKAGES], options);
  return failed === undefined ? { env } : { env, missing: `zig and cargo-zigbuild can't be had (${failed})` };
}

/** Makes sure that Rust has the target's standard library; answers with why it can't be had. */
export function addTarget(triple) {
  const { stdout } = spawnSync('rustc', ['--print', 'target-libdir', '--target', triple], { encoding: 'utf8' });
  if (stdout && existsSync(stdout.trim())) return undefined;
  const failed = failureOf('rustup', ['target', 'add', triple], { timeout: PATIENCE });
  return failed && `Rust's standard library for ${triple} can't be had (${failed})`;
}
