/** Caches that another user owns, that can't be written, or whose file system has no locks. */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { Registry } from 'microsandbox-image';
import { startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { requirePrograms, run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const ROOT = join(__dirname, '..', '..');
const NOBODY = 65_534;

/** Pulls in a process that is somebody else by then; answers with the result's `cached`, or the error's code and message. */
async function pullAsNobody(reference: string, cache: string, policy: string): Promise<Record<string, unknown>> {
  const script = `
    const { pull, GlobalCache } = require(${JSON.stringify(ROOT)});
    // Loads the addon, which nobody may not be allowed to read.
    new GlobalCache('/nowhere').isExtracted('sha256:' + 'a'.repeat(64));
    process.setegid(${NOBODY});
    process.seteuid(${NOBODY});
    pull(${JSON.stringify(reference)}, { cache: ${JSON.stringify(cache)}, policy: ${JSON.stringify(policy)} }).then(
      ({ cached }) => console.log(JSON.stringify({ cached })),
      ({ code, message }) => console.log(JSON.stringify({ code, message })),
    );`;
  const { stdout, stderr } = await run(process.execPath, ['-e', script]);
  assert.notEqual(stdout, '', stderr);
  return JSON.parse(stdout) as Record<string, unknown>;
}

async function serve(t: TestContext): Promise<TestRegistry> {
  const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'etc/a', content: 'a' }]] } } });
  t.after(() => server.close());
  return server;
}

/** Only root can become somebody else. */
function canBecomeNobody(t: TestContext): boolean {
  if (process.geteuid?.() === 0) return true;
  t.skip('needs root, to become another user');
  return false;
}

/** A directory that everybody may enter. */
function open(name: string, mode = 0o755): string {
  const directory = scratch(name);
  chmodSync(directory, mode);
  return directory;
}

describe('a cache in an odd place', () => {
  it('that can not be written answers hits, and says so where it would have to be written', async (t) => {
    if (!canBecomeNobody(t)) return;
    const server = await serve(t);
    const cache = open('read-only');
    const reference = server.reference('app:1');
    await new Registry({ cache }).pull(reference);
    for (const path of [cache, ...readdirSync(cache, { recursive: true }).map((name) => join(cache, String(name)))]) {
      chmodSync(path, 0o555);
    }
    const before = server.requests.length;
    for (const policy of ['if-missing', 'never']) {
      assert.deepEqual(await pullAsNobody(reference, cache, policy), { cached: true }, policy);
    }
    assert.equal(server.requests.length, before);
    const { code, message } = await pullAsNobody(reference, cache, 'always');
    assert.equal(code, 'ERR_CACHE', String(message));
  });

  it('that belongs to another user is refused in plain words', async (t) => {
    if (!canBecomeNobody(t)) return;
    const server = await serve(t);
    const cache = open('others', 0o777);
    for (const name of ['layers', 'images']) {
      mkdirSync(join(cache, name));
      chmodSync(join(cache, name), 0o777);
    }
    const { code, message } = await pullAsNobody(server.reference('app:1'), cache, 'if-missing');
    assert.equal(code, 'ERR_CACHE');
    assert.match(String(message), /belongs to another user; choose a cache directory of your own/);
    assert.deepEqual([readdirSync(join(cache, 'layers')), readdirSync(join(cache, 'images'))], [[], []]);
    for (const name of ['layers', 'images']) chownSync(join(cache, name), NOBODY, NOBODY);
    assert.deepEqual(await pullAsNobody(server.reference('app:1'), cache, 'if-missing'), { cached: false });
  });

  it('whose file system has no locks is refused with what to do', async (t) => {
    if (!requirePrograms(t, 'strace')) return;
    const server = await serve(t);
    const cache = scratch('no-locks');
    const main = join(ROOT, 'dist', 'cli', 'main.js');
    const inject = ['-f', '-qq', '-e', 'trace=flock', '-e', 'inject=flock:error=ENOLCK', '-o', '/dev/null'];
    const { code, stderr } = await run('strace', [
      ...[...inject, process.execPath, main, 'pull', server.reference('app:1'), '--quiet', '--cache-dir', cache],
    ]);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /no locks \(flock\); put the cache on a local one/);
    assert.ok(stderr.includes(cache), 'it names the directory');
  });
});
