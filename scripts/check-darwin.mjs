// Compiles the whole workspace for macOS, without linking and without running it: this machine can do neither, since a
// program for macOS links against Apple's SDK.
//
//   node scripts/check-darwin.mjs
//
// The C parts are compiled by zig, as in cross builds; warnings are errors. Fails where a target can't be had.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addTarget, crossTools, failureOf } from './pack/cross-tools.mjs';
import { targets } from './pack/targets.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tools = crossTools(join(root, 'target/cross-tools'));
for (const { triple } of targets(root, []).filter(({ os }) => os === 'darwin')) {
  const started = Date.now();
  const why = tools.missing ?? addTarget(triple) ?? compile(triple);
  const took = `${Math.round((Date.now() - started) / 1000)} s`;
  console.log(why === undefined ? `compiled: ${triple} (${took})` : `not compiled: ${triple}: ${why}`);
  if (why !== undefined) process.exitCode = 1;
}

function compile(triple) {
  const args = ['clippy', '--workspace', '--quiet', '--target', triple, '--', '-D', 'warnings'];
  return failureOf('cargo-zigbuild', args, { cwd: root, env: tools.env, stdio: ['ignore', 'inherit', 'inherit'] });
}
