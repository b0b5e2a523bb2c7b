/** The addons that scripts/cross.mjs built: what they need, and that they pull an image on the machines they are for. */
import assert from 'node:assert/strict';
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it, type TestContext } from 'node:test';
import { type Installed, install, ROOT } from '../support/installed.js';
import { machines, nodeOf } from '../support/machines.js';
import { has, must, requirePrograms } from '../support/programs.js';
import { COMMONJS } from '../support/pull-program.js';
import { scratch } from '../support/scratch.js';

const OLDEST = '2.28';
const folder = join(ROOT, 'target/cross');
const built = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.node')) : [];
const NO_READELF = !has('readelf') && 'readelf is not installed';
const NOT_BUILT = 'not built here: npm run pack:all -- --destination DIR builds it';

/** What a dynamic linker looks at, as binutils read it, for any CPU. */
async function needs(path: string): Promise<{ glibc: string[]; libraries: string[] }> {
  const symbols = await must('readelf', ['--wide', '--dyn-syms', path]);
  const headers = await must('readelf', ['--wide', '--dynamic', path]);
  return {
    glibc: [...new Set([...symbols.matchAll(/GLIBC_([\d.]+)/g)].map((match) => match[1] ?? ''))],
    libraries: [...headers.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map((match) => match[1] ?? ''),
  };
}

const newer = (version: string): boolean => version.localeCompare(OLDEST, 'en', { numeric: true }) > 0;

/** An addon's path, or the test is skipped. */
function addonOf(t: TestContext, target: string): string | undefined {
  const name = built.find((file) => file === `microsandbox-image.${target}.node`);
  if (name === undefined) t.skip(NOT_BUILT);
  return name && join(folder, name);
}

describe('an addon built for other machines', () => {
  for (const target of ['linux-x64-gnu', 'linux-arm64-gnu']) {
    it(`needs no symbol newer than glibc ${OLDEST}: ${target}`, { skip: NO_READELF }, async (t) => {
      const path = addonOf(t, target);
      if (path === undefined) return;
      const { glibc, libraries } = await needs(path);
      assert.ok(glibc.length > 3, 'symbols of glibc are there');
      assert.deepEqual(glibc.filter(newer), []);
      assert.deepEqual(
        libraries.filter((name) => !/^(lib(c|m|dl|pthread|rt|util)\.so\.\d|ld-linux-\S+)$/.test(name)),
        [],
      );
    });
  }

  it('needs nothing but musl: linux-x64-musl', { skip: NO_READELF }, async (t) => {
    const path = addonOf(t, 'linux-x64-musl');
    if (path === undefined) return;
    assert.deepEqual(await needs(path), { glibc: [], libraries: ['libc.so'] });
  });

  it('is an ELF file of its CPU, of at most 8 MB', (t) => {
    if (built.length === 0) {
      t.skip(NOT_BUILT);
      return;
    }
    for (const name of built.filter((file) => file.includes('linux'))) {
      const bytes = readFileSync(join(folder, name));
      assert.equal(bytes.readUInt16LE(18), name.includes('arm64') ? 183 : 62, name);
      assert.ok(bytes.length <= 8_000_000, `${name}: ${bytes.length} bytes`);
      t.diagnostic(`${name}: ${(bytes.length / 1e6).toFixed(2)} MB`);
    }
  });
});

describe('the package pulls an image', () => {
  const base = scratch('cross');
  let installed: Installed | undefined;
  before(async () => {
    if (built.length > 0) installed = await install(base);
  });

  for (const machine of machines) {
    const { target } = machine;
    it(`on ${target}`, { skip: process.arch !== 'x64' && 'machines are made on x64', timeout: 240_000 }, async (t) => {
      const addon = addonOf(t, target);
      if (addon === undefined || installed === undefined || !requirePrograms(t, ...machine.programs)) return;
      const app = join(base, target);
      mkdirSync(join(app, 'node_modules'), { recursive: true });
      const name = `microsandbox-image-${target}`;
      cpSync(
        join(installed.directory, 'node_modules/microsandbox-image'),
        join(app, 'node_modules/microsandbox-image'),
        {
          recursive: true,
        },
      );
      mkdirSync(join(app, 'node_modules', name));
      copyFileSync(addon, join(app, 'node_modules', name, 'index.node'));
      writeFileSync(join(app, 'node_modules', name, 'package.json'), '{ "main": "index.node" }');
      const program = join(app, 'pull.cjs');
      writeFileSync(program, `console.log(process.arch, process.version);${COMMONJS}`);
      const [starter = '', ...words] = await nodeOf(machine);
      const printed = await must(starter, [...words, program], { cwd: app, timeout: 120_000 });
      assert.match(printed, /^(x64|arm64) v22\.\S+\nhello\n$/);
      t.diagnostic(printed.split('\n')[0] ?? '');
    });
  }
});
