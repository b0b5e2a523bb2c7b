// Packs what `npm install` takes: the main package, and one package for each target whose addon was built.
//
//   node scripts/pack.mjs --destination DIR     the targets that are there; DIR/*.tgz installs here without a registry
//     --addons DIR      takes addons from there (scripts/cross.mjs) before those in the checkout
//     --all-targets     for a release: fails unless every target was built, for the oldest glibc
//
// npm refuses to be handed a package of another machine, so those lie apart, in DIR/other-machines; a release has no machine.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { loadsOnOldest, neededGlibc, OLDEST } from './pack/glibc.mjs';
import { stageMain, stageTarget } from './pack/stage.mjs';
import { runsHere, targets } from './pack/targets.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: {
    destination: { type: 'string' },
    addons: { type: 'string', multiple: true, default: [] },
    'all-targets': { type: 'boolean', default: false },
  },
});
if (values.destination === undefined) {
  console.error('error: name a directory: npm run pack:all -- --destination DIR');
  process.exit(2);
}
const destination = resolve(values.destination);

const all = targets(root, [...values.addons.map((path) => resolve(path)), root]);
const built = all.filter((target) => target.built);
const missing = all.filter((target) => !target.built).map((target) => target.name);
if (built.length === 0 || !existsSync(join(root, 'dist/index.js'))) {
  console.error('error: nothing is built; run npm run build');
  process.exit(1);
}
if (values['all-targets'] && missing.length > 0) {
  console.error(`error: not built: ${missing.join(', ')}`);
  process.exit(1);
}

for (const target of built.filter(({ path }) => !loadsOnOldest(path))) {
  const message = `${target.name} needs glibc ${neededGlibc(target.path)}; releases are built for ${OLDEST} (scripts/cross.mjs)`;
  if (values['all-targets']) {
    console.error(`error: ${message}`);
    process.exit(1);
  }
  console.log(`for this machine and newer ones: ${message}`);
}

const stage = mkdtempSync(join(tmpdir(), 'pack-'));
try {
  for (const target of built) {
    stageTarget(root, target, join(stage, target.name));
    const apart = !values['all-targets'] && !runsHere(target);
    pack(join(stage, target.name), apart ? join(destination, 'other-machines') : destination);
  }
  stageMain(root, built, join(stage, 'main'));
  pack(join(stage, 'main'), destination);
} finally {
  rmSync(stage, { recursive: true, force: true });
}
if (missing.length > 0) console.log(`not built here, not packed: ${missing.join(', ')}`);

function pack(directory, folder) {
  mkdirSync(folder, { recursive: true });
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder];
  const { status, stdout, stderr } = spawnSync('npm', args, { cwd: directory, encoding: 'utf8' });
  if (status !== 0) throw new Error(`npm pack failed: ${stderr}`);
  const [{ filename }] = Object.values(JSON.parse(stdout));
  const path = join(folder, filename);
  console.log(`${path} (${(statSync(path).size / 1e6).toFixed(1)} MB)`);
}
