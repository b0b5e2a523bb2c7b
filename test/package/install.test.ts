/** The packed files, installed in an empty folder outside the checkout: what is in them, and that they work there. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { startRegistry } from 'microsandbox-image/testing';
import { type Installed, install, ROOT } from '../support/installed.js';
import { must, run } from '../support/programs.js';
import { COMMONJS, ESM } from '../support/pull-program.js';
import { scratch } from '../support/scratch.js';

const base = scratch('installed');

let installed: Installed;

describe('the packed files', () => {
  const node = (...args: string[]) => must(process.execPath, args, { cwd: installed.directory });
  const modules = (...path: string[]) => join(installed.directory, 'node_modules', ...path);
  before(async () => {
    installed = await install(base);
  });

  it('pull an image from an ES module', async () => {
    assert.equal(await node(installed.write('pull.mjs', ESM)), 'hello\n');
  });

  it('pull an image from CommonJS', async () => {
    assert.equal(await node(installed.write('pull.cjs', COMMONJS)), 'hello\n');
  });

  it('hand both module systems the same classes', async () => {
    const program = `
      import { createRequire } from 'node:module';
      import * as esm from 'microsandbox-image';
      const cjs = createRequire(import.meta.url)('microsandbox-image');
      console.log(Object.keys(cjs).filter((name) => cjs[name] === esm[name]).join());`;
    const same = (await node(installed.write('same.mjs', program))).trim().split(',');
    assert.ok(same.includes('ImageError') && same.includes('pull') && same.includes('Registry'), same.join());
  });

  it('run as npx microsandbox-image', async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    const args = ['--offline', '--no', 'microsandbox-image', '--', '--version'];
    assert.equal((await must('npx', args, { cwd: installed.directory })).trim(), version);
  });

  it('pull an image through npx microsandbox-image', async (t) => {
    const registry = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'a', content: 'b' }]] } } });
    t.after(() => registry.close());
    const words = ['pull', '--quiet', '--cache-dir', join(base, 'npx-cache'), registry.reference('app:1')];
    const args = ['--offline', '--no', 'microsandbox-image', '--', ...words];
    const printed = await must('npx', args, { cwd: installed.directory, timeout: 60_000 });
    assert.match(printed, /^sha256:[0-9a-f]{64}\n$/);
  });

  it('pull in a worker thread, and let the process end while another worker is terminated', async () => {
    const program = `
      const { Worker, isMainThread } = require('node:worker_threads');
      if (isMainThread) {
        const one = new Worker(__filename, { argv: ['pull'] });
        const two = new Worker(__filename, { argv: ['wait'] });
        two.once('message', () => two.terminate().then(() => console.log('terminated')));
        one.once('error', (error) => { throw error; });
      } else if (process.argv[2] === 'pull') {
        ${COMMONJS}
      } else {
        const { pull } = require('microsandbox-image');
        const { startRegistry } = require('microsandbox-image/testing');
        startRegistry({ images: { 'app:1': { layers: [[{ path: 'a', content: 'b' }]] } }, faults: [{ on: 'blob', do: 'stall', skip: 1 }] })
          .then(async (registry) => {
            const cache = require('node:fs').mkdtempSync(require('node:path').join(__dirname, 'cache-'));
            for await (const event of pull(registry.reference('app:1'), { cache }))
              if (event.type === 'resolved') require('node:worker_threads').parentPort.postMessage('waiting');
          });
      }`;
    const lines = (await node(installed.write('worker.cjs', program))).trim().split('\n').sort();
    assert.deepEqual(lines, ['hello', 'terminated']);
  });

  it('say what is missing where the native package is not installed', async () => {
    const program = `
      const Module = require('node:module');
      const resolve = Module._resolveFilename;
      Module._resolveFilename = function (name, ...rest) {
        if (name.startsWith('microsandbox-image-')) throw Object.assign(new Error("Cannot find module '" + name + "'"), { code: 'MODULE_NOT_FOUND' });
        return resolve.call(this, name, ...rest);
      };
      try { new (require('microsandbox-image').Registry)(); } catch (error) { console.log(error.message); }`;
    const message = await node(installed.write('missing.cjs', program));
    assert.match(message, /is not installed \(package microsandbox-image-\w+-\w+.*--omit=optional/);
  });

  it('do no work at import: the addon is not loaded', async () => {
    const program = `
      require('microsandbox-image'); require('microsandbox-image/testing');
      console.log(Object.keys(require.cache).filter((name) => name.endsWith('.node')).length);`;
    assert.equal(await node(installed.write('import.cjs', program)), '0\n');
  });

  it('hold no script that runs at installation, and nothing but what is needed', () => {
    const manifest = JSON.parse(readFileSync(modules('microsandbox-image/package.json'), 'utf8')) as object;
    assert.ok(!('scripts' in manifest) && !('devDependencies' in manifest));
    const files = readdirSync(modules('microsandbox-image')).sort();
    assert.deepEqual(
      files.filter((name) => name !== 'node_modules'),
      [
        'CHANGELOG.md',
        'LICENSE',
        'README.md',
        'dist',
        'index.d.mts',
        'index.d.ts',
        'package.json',
        'testing.d.mts',
        'testing.d.ts',
      ],
    );
    assert.ok(existsSync(modules('microsandbox-image/node_modules/commander/LICENSE')));
  });

  it('have an addon of at most 8 MB that loads in at most 15 ms', async (t) => {
    const [target = ''] = readdirSync(modules()).filter((name) => name.startsWith('microsandbox-image-'));
    const [addon = ''] = readdirSync(modules(target)).filter((name) => name.endsWith('.node'));
    const path = modules(target, addon);
    const bytes = statSync(path).size;
    const program = `
      const begun = performance.now();
      require(${JSON.stringify(path)});
      console.log(performance.now() - begun);`;
    const file = installed.write('load.cjs', program);
    const times: number[] = [];
    for (let round = 0; round < 7; round++) times.push(Number(await node(file)));
    const best = Math.min(...times);
    t.diagnostic(`${addon}: ${(bytes / 1e6).toFixed(2)} MB, loads in ${best.toFixed(1)} ms`);
    assert.ok(bytes <= 8_000_000, `${bytes} bytes`);
    assert.ok(best <= 15, times.join());
  });

  it('need no tool to be told what a wrong command is', async () => {
    const bin = modules('.bin/microsandbox-image');
    const { code, stderr } = await run(bin, ['pul'], { cwd: installed.directory });
    assert.equal(code, 2);
    assert.match(stderr, /pull/);
  });
});
