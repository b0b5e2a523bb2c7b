/** The examples are programs: each is run as its first lines say, against a registry in this process. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { layer, startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { must } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const ROOT = join(__dirname, '../..');
const folder = scratch('examples');
const TESTED = ['ci-cache.mjs', 'electron-main.mjs', 'server.mjs'];

// A user's folder: the examples, and the package under its name.
mkdirSync(join(folder, 'node_modules'));
symlinkSync(ROOT, join(folder, 'node_modules/microsandbox-image'));
for (const name of TESTED) copyFileSync(join(ROOT, 'examples', name), join(folder, name));

async function serve(t: { after: (clean: () => Promise<void>) => void }): Promise<TestRegistry> {
  const slow = layer([{ path: 'slow', content: 'slow' }]);
  const registry = await startRegistry({
    images: { 'app:1': { layers: [[{ path: 'a', content: 'a' }]] }, 'slow:1': { layers: [slow] } },
    faults: [{ on: 'blob', digest: slow.digest, do: 'stall', after: 1 }],
  });
  t.after(() => registry.close());
  return registry;
}

const example = (...args: string[]): Promise<string> => must(process.execPath, args, { cwd: folder });

describe('the examples', () => {
  it('are all run here', () => {
    assert.deepEqual(readdirSync(join(ROOT, 'examples')).sort(), TESTED);
  });

  it('ci-cache gives a key that follows the image, and a directory that serves without a network', async (t) => {
    const registry = await serve(t);
    const reference = registry.reference('app:1');
    const before = await example('ci-cache.mjs', 'key', reference);
    assert.match(before, /^images-[0-9a-f]{16}\n$/);
    assert.match(await example('ci-cache.mjs', 'pull', join(folder, 'ci'), reference), /^pulled .*sha256:/);
    assert.match(await example('ci-cache.mjs', 'pull', join(folder, 'ci'), reference), /^cached .*sha256:/);
    registry.push('app:1', { layers: [[{ path: 'b', content: 'b' }]] });
    assert.notEqual(await example('ci-cache.mjs', 'key', reference), before);
  });

  it('server tells progress and result, answers a hit in one line, and errors by status', async (t) => {
    const registry = await serve(t);
    const child = spawn(process.execPath, ['server.mjs', '0', join(folder, 'server')], { cwd: folder });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    t.after(() => child.kill());
    const port = await new Promise<string>((resolve, reject) => {
      child.once('exit', reject);
      child.stdout.once('data', (line: Buffer) => {
        resolve(/\d+/.exec(line.toString())?.[0] ?? '');
      });
    });
    const ask = async (image: string): Promise<{ status: number; lines: Record<string, unknown>[] }> => {
      const response = await fetch(`http://127.0.0.1:${port}/pull?image=${encodeURIComponent(image)}`);
      const text = (await response.text()).trim().split('\n');
      return { status: response.status, lines: text.map((line) => JSON.parse(line) as Record<string, unknown>) };
    };
    const first = await ask(registry.reference('app:1'));
    assert.equal(first.lines[0]?.['type'], 'resolving');
    assert.equal(first.lines.at(-1)?.['cached'], false);
    const second = await ask(registry.reference('app:1'));
    assert.deepEqual([second.lines.length, second.lines[0]?.['cached']], [1, true]);
    assert.equal((await ask('NOT VALID')).status, 400);
    child.kill('SIGTERM');
    assert.equal(await ended, 0);
  });

  it('electron-main shows progress in a window, cancels, and sends errors as data', async (t) => {
    // The Electron binary is no npm package alone; a stand-in for its module drives the same lines.
    const registry = await serve(t);
    mkdirSync(join(folder, 'node_modules/electron'));
    writeFileSync(join(folder, 'node_modules/electron/package.json'), '{ "main": "index.js" }');
    writeFileSync(join(folder, 'node_modules/electron/index.js'), STAND_IN);
    const printed = await must(process.execPath, ['electron-main.mjs'], {
      cwd: folder,
      env: { ...process.env, IMAGE: registry.reference('app:1'), SLOW: registry.reference('slow:1') },
    });
    const { pulled, failed, cancelled, sent } = JSON.parse(printed) as {
      pulled: { layers: string[] };
      failed: { error: { code: string } };
      cancelled: { error: { code: string } };
      sent: { reference: string; type: string; fraction: number }[];
    };
    assert.equal(pulled.layers.length, 1);
    assert.equal(failed.error.code, 'ERR_INVALID_REFERENCE');
    assert.match(cancelled.error.code, /^AbortError$/);
    const fractions = sent.filter(({ reference }) => reference === registry.reference('app:1'));
    assert.deepEqual([fractions[0]?.fraction, fractions.at(-1)?.fraction], [0, 1]);
  });
});

/** Electron's module, as far as the example uses it; the window's part is played in `loadFile`. */
const STAND_IN = `
  const { EventEmitter } = require('node:events');
  const handlers = new Map();
  const sent = [];
  const sender = Object.assign(new EventEmitter(), { isDestroyed: () => false, send: (_, progress) => sent.push(progress) });
  exports.app = { getPath: () => __dirname, getAppPath: () => __dirname, whenReady: async () => {} };
  exports.ipcMain = Object.assign(new EventEmitter(), { handle: (name, handler) => handlers.set(name, handler) });
  exports.BrowserWindow = class {
    async loadFile() {
      const pull = (reference) => handlers.get('image:pull')({ sender }, reference);
      const pulled = await pull(process.env.IMAGE);
      const failed = await pull('NOT VALID');
      const waiting = pull(process.env.SLOW);
      setTimeout(() => exports.ipcMain.emit('image:cancel', {}, process.env.SLOW), 200);
      console.log(JSON.stringify({ pulled, failed, cancelled: await waiting, sent }));
    }
  };`;
