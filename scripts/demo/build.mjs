// Builds what is missing or older than its sources, so that a fresh clone needs no step before the demo.
import { spawnSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';

const root = fileURLToPath(new URL('../..', import.meta.url));
const NATIVE_SOURCES = ['crates', 'Cargo.toml', 'Cargo.lock'];
const GENERATED = ['src/native/binding.d.ts'];
const NOT_SOURCES = new Set(['target', 'node_modules', 'tests', ...GENERATED.map((path) => join(root, path))]);

export function buildWhatIsStale() {
  const addons = readdirSync(root).filter((name) => name.endsWith('.node'));
  if (isStale(addons, NATIVE_SOURCES)) {
    console.log('— Building the native addon (once; a few minutes on a fresh machine)');
    run('build:native');
  }
  if (isStale(['dist/index.mjs', 'dist/testing/index.mjs', 'dist/cli/progress.js'], ['src', 'tsconfig.build.json'])) {
    console.log('— Building the TypeScript face');
    run('build:ts');
  }
}

/** Whether one of the products is missing, or older than the newest source. */
function isStale(products, sources) {
  const made = products.map((path) => timeOf(join(root, path)));
  return made.length === 0 || Math.min(...made) < Math.max(...sources.map((path) => newest(join(root, path))));
}

function newest(path) {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return timeOf(path);
  const entries = readdirSync(path).filter((name) => !NOT_SOURCES.has(name) && !NOT_SOURCES.has(join(path, name)));
  return Math.max(0, ...entries.map((name) => newest(join(path, name))));
}

function timeOf(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

function run(script) {
  const { status } = spawnSync('npm', ['run', '--silent', script], {
    cwd: root,
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
  if (status !== 0) {
    console.error(`error: npm run ${script} failed; the README lists what a build needs`);
    process.exit(1);
  }
}
