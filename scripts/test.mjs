// Runs all tests: the core's by cargo, the rest by Node's own runner. Arguments narrow the second part to files.
// The program of the original crate is compiled first, by itself: on a new machine that takes minutes, more than any one test may.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const only = process.argv.slice(2);

function testFiles(directory) {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return ['original', 'node_modules', 'target'].includes(entry.name) ? [] : testFiles(path);
    return entry.name.endsWith('.test.ts') ? [path] : [];
  });
}

function run(name, program, args, options = {}) {
  const started = Date.now();
  const { status } = spawnSync(program, args, { stdio: 'inherit', ...options });
  console.log(`${name}: ${status === 0 ? 'passed' : 'FAILED'} in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  return status === 0;
}

const files = only.length > 0 ? only : testFiles('test').sort();
const core = only.length > 0 || run('core', 'cargo', ['test', '--workspace', '--quiet']);
const original =
  only.length > 0 ||
  run('original', 'cargo', ['build', '--release', '--locked', '--quiet'], { cwd: join('test', 'original') });
const flags = ['--import', 'tsx', '--test', '--test-concurrency=2', '--test-timeout=300000'];
const face = run('face', process.execPath, [...flags, ...files]);
process.exitCode = core && original && face ? 0 : 1;
