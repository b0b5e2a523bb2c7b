/** `ls`, `rm`, `prune`, `df`, `verify` and `completion`, each as a process of its own. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { Registry } from 'microsandbox-image';
import { startRegistry } from 'microsandbox-image/testing';
import { must, type Ran, requirePrograms, run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');

interface Filled {
  cli: (...args: string[]) => Promise<Ran>;
  registry: Registry;
  reference: string;
}

async function filled(t: TestContext): Promise<Filled> {
  const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'etc/motd', content: 'hello' }]] } } });
  t.after(() => server.close());
  const registry = new Registry({ cache: scratch('cli') });
  await registry.pull(server.reference('app:1'));
  const cli = (...args: string[]): Promise<Ran> =>
    run(process.execPath, [MAIN, ...args, '--cache-dir', registry.cache.directory]);
  return { cli, registry, reference: server.reference('app:1') };
}

describe('the commands for the cache', () => {
  it('ls lists the images for people and for programs', async (t) => {
    const { cli, reference } = await filled(t);
    const { code, stdout } = await cli('ls');
    assert.equal(code, 0);
    const [header = '', row = '', ...more] = stdout.split('\n');
    assert.match(header, /^IMAGE +PLATFORM +MANIFEST +COMPRESSED +LAST USED$/);
    assert.ok(row.startsWith(`${reference}  linux/`) && row.endsWith('just now'), row);
    assert.deepEqual(more, ['']);
    const image = JSON.parse((await cli('ls', '--json')).stdout) as { reference: string; complete: boolean };
    assert.deepEqual([image.reference, image.complete], [reference, true]);
  });

  it('rm removes images and names those that are not there', async (t) => {
    const { cli, reference, registry } = await filled(t);
    const bad = await cli('rm', reference, 'UPPER');
    assert.deepEqual([bad.code, registry.pullCached(reference) === null], [2, false], 'nothing goes on wrong usage');
    const { code, stdout, stderr } = await cli('rm', reference, 'nobody/has-it');
    assert.equal(code, 1);
    assert.match(stdout, /^127\.0\.0\.1:\d+\/app:1: freed [\d.]+ KiB\n$/);
    assert.match(stderr, /^error: not in the cache: docker\.io\/nobody\/has-it:latest .*\n$/);
    assert.equal(registry.pullCached(reference), null);
  });

  it('prune tells what goes, and does nothing in a dry run', async (t) => {
    const { cli, reference, registry } = await filled(t);
    const dry = await cli('prune', '--max-size', '0', '--dry-run');
    assert.match(dry.stdout, /^image .*: over-budget, .*\nlayer sha256:.*: unreferenced, .*\nwould free /);
    assert.notEqual(registry.pullCached(reference), null);
    const { stdout } = await cli('prune', '--keep', '0', '--json');
    const report = JSON.parse(stdout) as { removed: { reason: string }[]; freedBytes: number };
    assert.deepEqual([report.removed[0]?.reason, report.freedBytes > 0], ['beyond-keep', true]);
    assert.equal(registry.pullCached(reference), null);
  });

  it('df adds up the room', async (t) => {
    const { cli, registry } = await filled(t);
    const { stdout } = await cli('df');
    assert.match(stdout, /: 1 images, 1 layers\nblobs .*\n(.*\n)*total +[\d.]+ KiB\n/);
    const usage = JSON.parse((await cli('df', '--json')).stdout) as { directory: string; bytes: number };
    assert.deepEqual([usage.directory, usage.bytes > 0], [registry.cache.directory, true]);
  });

  it('verify ends with 1 if something is wrong, and with 0 once it is repaired', async (t) => {
    const { cli, registry, reference } = await filled(t);
    assert.deepEqual(await cli('verify', '--depth', 'content'), {
      code: 0,
      stdout: '1 images, 1 layers: ok\n',
      stderr: '',
    });
    const file = join(registry.pullCached(reference)!.layers[0]!, 'etc/motd');
    rmSync(file);
    const found = await cli('verify');
    assert.deepEqual([found.code, found.stderr], [1, 'error: 1 problem found (run verify --repair)\n']);
    assert.ok(found.stdout.startsWith(`${file}: missing-file: `), found.stdout);
    const json = await cli('verify', '--json');
    assert.deepEqual([json.code, (JSON.parse(json.stdout) as { ok: boolean }).ok, json.stderr], [1, false, '']);
    const mended = await cli('verify', '--repair');
    assert.deepEqual([mended.code, mended.stderr], [0, '']);
  });

  it('say in one line what is wrong with their options, with exit code 2', async (t) => {
    const { cli } = await filled(t);
    const cases: [RegExp, string[]][] = [
      [/^error: --older-than takes a time such as 30d/, ['prune', '--older-than', 'soon']],
      [/^error: --max-size takes bytes or a size/, ['prune', '--max-size', 'big']],
      [/^error: --keep takes a whole number/, ['prune', '--keep', '-1']],
      [/^error: --keep and --keep-image exclude/, ['prune', '--keep', '1', '--keep-image', 'alpine']],
      [/^error: .*'deep' is invalid/, ['verify', '--depth', 'deep']],
      [/^error: missing required argument/, ['rm']],
    ];
    for (const [pattern, args] of cases) {
      const { code, stdout, stderr } = await cli(...args);
      assert.deepEqual([code, stdout, stderr.trim().split('\n').length], [2, '', 1], `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, pattern);
    }
  });

  it('explain themselves with examples', async () => {
    for (const command of ['ls', 'rm', 'prune', 'df', 'verify', 'completion']) {
      const { code, stdout } = await run(process.execPath, [MAIN, command, '--help']);
      assert.deepEqual([code, /Examples?:\n {2}\$ /.test(stdout)], [0, true], command);
    }
  });

  it('complete in a shell', async (t) => {
    if (!requirePrograms(t, 'bash')) return;
    const script = await must(process.execPath, [MAIN, 'completion', 'bash']);
    const ask = `${script}\nCOMP_WORDS=(microsandbox-image prune --dr); COMP_CWORD=2; _microsandbox_image; echo "\${COMPREPLY[@]}"
      COMP_WORDS=(microsandbox-image v); COMP_CWORD=1; _microsandbox_image; echo "\${COMPREPLY[@]}"`;
    assert.equal(await must('bash', ['-c', ask]), '--dry-run\nverify\n');
    assert.match(await must(process.execPath, [MAIN, 'completion', 'fish']), /-l older-than -d '/);
    assert.match(await must(process.execPath, [MAIN, 'completion', 'zsh']), /bashcompinit/);
  });
});
