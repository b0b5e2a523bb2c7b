/** What a release asks for, and what of it can be seen on one machine. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ROOT } from '../support/installed.js';
import { has, must, run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
const { napi } = JSON.parse(read('package.json')) as { napi: { targets: string[] } };

interface Glibc {
  neededGlibc: (path: string) => string | undefined;
  loadsOnOldest: (path: string) => boolean;
}

const glibc = async () => (await import(join(ROOT, 'scripts/pack/glibc.mjs'))) as Glibc;

describe('a release', () => {
  it('is refused while a target is not built', async (t) => {
    const built = readdirSync(ROOT).filter((name) => name.endsWith('.node'));
    if (built.length === napi.targets.length) {
      t.skip('all targets are built here');
      return;
    }
    const destination = join(scratch('release'), 'packs');
    const pack = [join(ROOT, 'scripts/pack.mjs'), '--destination', destination, '--all-targets'];
    const { code, stderr } = await run(process.execPath, pack);
    assert.equal(code, 1);
    assert.match(stderr, /^error: not built: /);
    assert.ok(!existsSync(destination));
  });

  it('lays packages of other machines apart, since npm would refuse to be handed them', async (t) => {
    const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
    if (header.glibcVersionRuntime === undefined) {
      t.skip('asked for a machine with glibc');
      return;
    }
    const [addons, destination] = [scratch('addons'), scratch('packs')];
    const own = `linux-${process.arch}-gnu`;
    const names = ['linux-x64-gnu', 'linux-arm64-gnu', 'linux-x64-musl', 'linux-arm64-musl', 'darwin-arm64'];
    for (const name of names) writeFileSync(join(addons, `microsandbox-image.${name}.node`), 'no program');
    const { code, stderr } = await run(process.execPath, [
      ...[join(ROOT, 'scripts/pack.mjs'), '--addons', addons, '--destination', destination],
    ]);
    assert.equal(code, 0, stderr);
    const packed = (folder: string) => readdirSync(folder).filter((name) => name.endsWith('.tgz'));
    const of = (name: string) => (file: string) => file.startsWith(`microsandbox-image-${name}-`);
    assert.equal(packed(destination).filter(of(own)).length, 1);
    assert.equal(packed(destination).length, 2);
    const others = packed(join(destination, 'other-machines'));
    for (const name of names.filter((each) => each !== own)) assert.equal(others.filter(of(name)).length, 1, name);
  });

  it('says which glibc an addon needs, by the newest version its symbols name', async () => {
    const { neededGlibc, loadsOnOldest } = await glibc();
    const file = join(scratch('glibc'), 'addon.node');
    for (const [symbols, needed, loads] of [
      ['GLIBC_2.4\0GLIBC_2.28\0GLIBC_2.17', '2.28', true],
      ['GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9', '2.34', false],
      ['no versions', undefined, true],
    ] as const) {
      writeFileSync(file, symbols);
      assert.equal(neededGlibc(file), needed);
      assert.equal(loadsOnOldest(file), loads);
    }
  });

  it('says the same of an addon that readelf says', async (t) => {
    const name = readdirSync(ROOT).find((file) => file.endsWith('-gnu.node'));
    if (name === undefined || !has('readelf')) {
      t.skip(name === undefined ? 'no addon for glibc is built here' : 'readelf is not installed');
      return;
    }
    const { neededGlibc } = await glibc();
    const symbols = await must('readelf', ['--wide', '--dyn-syms', join(ROOT, name)]);
    const versions = [...symbols.matchAll(/@GLIBC_([\d.]+)/g)].map((match) => match[1] ?? '');
    const newest = versions.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1);
    assert.equal(neededGlibc(join(ROOT, name)), newest);
  });

  it('has an addon, a loader and a workflow for each target, under one name', () => {
    const names = napi.targets.map((triple) => {
      const [machine, vendor, , libc] = triple.split('-');
      const cpu = machine === 'x86_64' ? 'x64' : 'arm64';
      return vendor === 'apple' ? `darwin-${cpu}` : `linux-${cpu}-${libc ?? ''}`;
    });
    for (const [at, name] of names.entries()) {
      assert.ok(read('src/native/addons.ts').includes(`require('microsandbox-image-${name}')`), name);
      assert.ok(read('.github/workflows/build.yml').includes(`name: ${name},`), name);
      assert.ok(read('.github/workflows/build.yml').includes(`target: ${napi.targets[at] ?? ''},`), name);
    }
  });
});
