/** Caches that another user owns, that can't be written, or whose file system has no locks. */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, lchownSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { GlobalCache, Registry } from 'microsandbox-image';
import { startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { requirePrograms, run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const ROOT = join(__dirname, '..', '..');
const NOBODY = 65_534;
const STRANGER = 54_321;

/** Pulls in a process that is somebody else by then; answers with the result's `cached`, or the error's code and message. */
async function pullAsNobody(
  reference: string,
  cache: string,
  policy: string,
  more: object = {},
): Promise<Record<string, unknown>> {
  const script = `
    const { pull, GlobalCache } = require(${JSON.stringify(ROOT)});
    // Loads the addon, which nobody may not be allowed to read.
    new GlobalCache('/nowhere').isExtracted('sha256:' + 'a'.repeat(64));
    process.setegid(${NOBODY});
    process.seteuid(${NOBODY});
    pull(${JSON.stringify(reference)}, ${JSON.stringify({ cache, policy, ...more })}).then(
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

  it('that belongs to another user is refused in plain words, on hits too, unless that user is trusted', async (t) => {
    if (!canBecomeNobody(t)) return;
    const server = await serve(t);
    const cache = open('others');
    const reference = server.reference('app:1');
    await new Registry({ cache }).pull(reference);
    const all = [cache, ...readdirSync(cache, { recursive: true }).map((name) => join(cache, String(name)))];
    const give = (owner: number): void => {
      for (const path of all) lchownSync(path, owner, owner);
    };
    give(STRANGER);
    for (const path of all) chmodSync(path, 0o755);
    for (const policy of ['if-missing', 'never', 'always']) {
      const { code, message } = await pullAsNobody(reference, cache, policy);
      assert.equal(code, 'ERR_CACHE', policy);
      assert.match(String(message), new RegExp(`problem at ${cache}: it belongs to another user`), policy);
      assert.match(
        String(message),
        new RegExp(`owner ${STRANGER}, mode 0755.*choose a cache directory of your own`),
        policy,
      );
    }
    const trustedOwners = [STRANGER];
    assert.deepEqual(await pullAsNobody(reference, cache, 'never', { trustedOwners }), { cached: true });
    // Root uses it as it is; so does the command line where it is told to.
    assert.notEqual(new Registry({ cache }).pullCached(reference), null);
    give(NOBODY);
    chownSync(join(cache, 'layers'), STRANGER, STRANGER);
    assert.throws(() => new Registry({ cache }).pullCached(reference), { code: 'ERR_CACHE' });
    for (const trusting of [{ cache, trustedOwners }, { cache: new GlobalCache(cache, { trustedOwners }) }]) {
      assert.notEqual(new Registry(trusting).pullCached(reference), null);
    }
    const main = join(ROOT, 'dist', 'cli', 'main.js');
    const listed = (...more: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> =>
      run(process.execPath, [main, 'ls', '--json', '--cache-dir', cache, ...more]);
    const refused = await listed();
    assert.equal(refused.code, 1);
    assert.match(refused.stdout + refused.stderr, /belongs to another user/);
    const trusted = await listed('--trusted-owner', String(STRANGER));
    assert.equal(trusted.code, 0, trusted.stderr);
    chownSync(join(cache, 'layers'), NOBODY, NOBODY);
    assert.deepEqual(await pullAsNobody(reference, cache, 'if-missing'), { cached: true });
  });

  it('that everybody may write is refused, sticky or not', async (t) => {
    const server = await serve(t);
    const cache = open('open-to-all', 0o1777);
    const registry = new Registry({ cache });
    const wrong = { code: 'ERR_CACHE', message: /everybody may write it \(owner \d+, mode 1777\).*chmod o-w/ };
    assert.throws(() => registry.pullCached(server.reference('app:1')), wrong);
    await assert.rejects(registry.pull(server.reference('app:1')), wrong);
    assert.deepEqual([readdirSync(cache).filter((name) => name === 'leases'), server.requests.length], [[], 0]);
  });

  it('takes user ids as trusted owners and nothing else', () => {
    const wrong = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' };
    for (const trustedOwners of [null, 7, ['root'], [-1], [1.5], [2 ** 32], [null]] as unknown as number[][]) {
      assert.throws(() => new Registry({ cache: '/nowhere', trustedOwners }), wrong);
      assert.throws(() => new GlobalCache('/nowhere', { trustedOwners }), wrong);
    }
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
