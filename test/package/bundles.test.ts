/** The packed files after a bundler took them, and from an archive: the addon is found, and an image is pulled. */
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { createPackageWithOptions, listPackage, statFile } from '@electron/asar';
import { build, type BuildOptions } from 'esbuild';
import webpack from 'webpack';
import { type Installed, install } from '../support/installed.js';
import { must } from '../support/programs.js';
import { COMMONJS, ESM } from '../support/pull-program.js';
import { runtimes } from '../support/runtimes.js';
import { scratch } from '../support/scratch.js';

const base = scratch('bundles');
let installed: Installed;

describe('the packed files', () => {
  const node = (...args: string[]) => must(process.execPath, args, { cwd: base, timeout: 30_000 });
  before(async () => {
    installed = await install(base);
  });

  it('work after a bundle by esbuild that leaves the native package where it is', async () => {
    for (const [format, contents, banner] of [
      ['cjs', COMMONJS, ''],
      // CommonJS code in an ES module asks for its built-in modules by require.
      ['esm', ESM, BUNDLED_REQUIRE],
    ] as const) {
      const outfile = join(installed.directory, `bundled.${format === 'cjs' ? 'cjs' : 'mjs'}`);
      await bundle(contents, { format, outfile, banner: { js: banner }, external: ['microsandbox-image-*'] });
      assert.equal(await node(outfile), 'hello\n', format);
    }
  });

  it('work after a bundle by esbuild that copies the addon beside the program', async () => {
    const outdir = join(base, 'copied');
    await bundle(COMMONJS, { outdir, entryNames: 'program', loader: { '.node': 'copy' } });
    assert.ok(readdirSync(outdir).some((name) => name.endsWith('.node')));
    assert.equal(await node(join(outdir, 'program.js')), 'hello\n');
  });

  it('work after bun build, and as one file by bun build --compile', async (t) => {
    const bun = runtimes.find(({ name }) => name === 'bun');
    if (bun?.missing !== undefined) {
      t.skip(bun.missing);
      return;
    }
    const source = installed.write('program.cjs', COMMONJS.replaceAll('__dirname', JSON.stringify(base)));
    const [outdir, outfile] = [join(base, 'bun'), join(base, 'one-file')];
    mkdirSync(outdir);
    const options = { cwd: installed.directory };
    const program = bun?.program ?? '';
    await must(program, ['build', source, '--target=bun', `--outdir=${outdir}`], options);
    assert.equal(await must(program, [join(outdir, 'program.js')], { cwd: base }), 'hello\n');
    await must(program, ['build', source, '--compile', `--outfile=${outfile}`], options);
    assert.equal(await must(outfile, [], { cwd: base }), 'hello\n');
  });

  it('work after a bundle by webpack that leaves the native package where it is', async () => {
    const entry = installed.write('webpack.cjs', COMMONJS);
    const path = join(installed.directory, 'webpack');
    const { errors } = await packed({
      entry,
      output: { path, filename: 'program.cjs' },
      externals: /^microsandbox-image-/,
      externalsType: 'commonjs',
      node: { __dirname: false },
    });
    assert.deepEqual(errors, []);
    assert.equal(await node(join(path, 'program.cjs')), 'hello\n');
  });

  it('work from an asar archive whose addon is unpacked, as Electron opens it', async () => {
    const [app, archive] = [join(base, 'asar-app'), join(base, 'app.asar')];
    mkdirSync(app);
    cpSync(join(installed.directory, 'node_modules'), join(app, 'node_modules'), { recursive: true });
    writeFileSync(join(app, 'program.cjs'), COMMONJS.replaceAll('__dirname', JSON.stringify(base)));
    await createPackageWithOptions(app, archive, { unpack: '**/*.node' });

    const names = listPackage(archive, { isPack: false }).filter((name) => name.endsWith('.node'));
    assert.equal(names.length, 1);
    const [addon = ''] = names;
    assert.ok('unpacked' in statFile(archive, addon.slice(1)), 'a host can see that the addon lies outside');
    assert.ok(existsSync(join(`${archive}.unpacked`, addon)), 'and there it is');
    const asar = createRequire(__filename).resolve('@electron/asar');
    const host = join(__dirname, '../support/asar-host.cjs');
    assert.equal(await node(host, asar, archive, 'program.cjs'), 'hello\n');
  });
});

const BUNDLED_REQUIRE =
  "import { createRequire as makeRequire } from 'node:module'; const require = makeRequire(import.meta.url);";

async function bundle(contents: string, options: BuildOptions): Promise<void> {
  const stdin = { contents, resolveDir: installed.directory, loader: 'js' } as const;
  await build({ stdin, bundle: true, platform: 'node', logLevel: 'silent', ...options });
}

/** Runs webpack to its end. */
function packed(options: webpack.Configuration): Promise<{ errors: string[] }> {
  const compiler = webpack({ target: 'node20', mode: 'production', ...options });
  return new Promise((resolve, reject) => {
    compiler.run((error, stats) => {
      compiler.close(() => {
        if (error) reject(error);
        else resolve({ errors: (stats?.compilation.errors ?? []).map(({ message }) => message) });
      });
    });
  });
}
