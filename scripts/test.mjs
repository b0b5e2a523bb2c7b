// Runs all tests: the core's by cargo, the rest by Node's own runner. Arguments narrow the second part to files.
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

function run(name, program, args) {
  const started = Date.now();
  const { status } = spawnSync(program, args, { stdio: 'inherit' });
  console.log(`${name}: ${status === 0 ? 'passed' : 'FAILED'} in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  return status === 0;
}

const files = only.length > 0 ? only : testFiles('test').sort();
const core = only.length > 0 || run('core', 'cargo', ['test', '--workspace', '--quiet']);
const flags = ['--import', 'tsx', '--test', '--test-concurrency=2', '--test-timeout=300000'];
const face = run('face', process.execPath, [...flags, ...files]);
process.exitCode = core && face ? 0 : 1;
