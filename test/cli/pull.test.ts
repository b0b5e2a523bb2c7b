/** The command line, as a process of its own. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { run, type Ran } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const cli = (...args: string[]): Promise<Ran> => run(process.execPath, [MAIN, ...args]);

async function serve(t: { after: (clean: () => Promise<void>) => void }): Promise<TestRegistry> {
  const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'etc/motd', content: 'hello' }]] } } });
  t.after(() => server.close());
  return server;
}

describe('microsandbox-image pull', () => {
  it('prints the manifest digest on stdout and plain lines on stderr', async (t) => {
    const server = await serve(t);
    const cache = scratch('cli');
    const { code, stdout, stderr } = await cli('pull', server.reference('app:1'), '--cache-dir', cache);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^sha256:[0-9a-f]{64}\n$/);
    assert.match(stderr, /resolving\n[^]*complete\n$/);
    assert.ok(!stderr.includes('\u001b'), 'no control sequences in a pipe');
  });

  it('prints one JSON object for each reference with --json, and nothing on stderr', async (t) => {
    const server = await serve(t);
    const cache = scratch('cli');
    const reference = server.reference('app:1');
    const { code, stdout, stderr } = await cli('pull', reference, reference, '--json', '--cache-dir', cache);
    const lines = stdout.trim().split('\n');
    assert.deepEqual([code, lines.length, stderr], [0, 2, '']);
    const [first, second] = lines.map((line) => JSON.parse(line) as { cached: boolean; layers: string[] });
    assert.deepEqual([first?.cached, second?.cached], [false, true]);
  });

  it('says in one line what went wrong and what to do, with the right exit code', async (t) => {
    const server = await serve(t);
    const cache = scratch('cli');
    const where = ['--cache-dir', cache];
    const cases: [number, RegExp, string[]][] = [
      [
        1,
        /^error: .*missing.*not found.*\(check the name and the tag\)$/,
        ['pull', server.reference('app:missing'), ...where],
      ],
      [1, /^error: .*not in the cache.*\(pull it first/, ['pull', 'alpine', '--policy', 'never', ...where]],
      [2, /^error: no command given/, []],
      [2, /^error: missing required argument 'reference'$/, ['pull']],
      [2, /^error: unknown command 'pul' \(did you mean pull\?\)$/, ['pul']],
      [2, /^error: unknown option '--polcy' \(did you mean --policy\?\)$/, ['pull', '--polcy', 'x']],
      [2, /^error: .*'sometimes' is invalid/, ['pull', '--policy', 'sometimes', 'x']],
      [2, /^error: invalid image reference "UPPER"/, ['pull', 'UPPER', ...where]],
      [2, /^error: invalid option platform/, ['pull', 'x', '--platform', 'linux', ...where]],
      [2, /^error: --username and --password-stdin go together$/, ['pull', 'x', '--username', 'me', ...where]],
      [2, /^error: --mirror takes HOST=URL/, ['pull', 'x', '--mirror', 'nothing', ...where]],
      [2, /^error: --timeout takes seconds/, ['pull', 'x', '--timeout', 'soon', ...where]],
      [2, /^error: --ca-cert .* can't be read/, ['pull', 'x', '--ca-cert', '/nowhere', ...where]],
    ];
    for (const [expected, pattern, args] of cases) {
      const { code, stdout, stderr } = await cli(...args);
      const last = stderr.trim().split('\n').at(-1) ?? '';
      assert.equal(code, expected, `${args.join(' ')}: ${stderr}`);
      assert.match(last, pattern);
      assert.equal(stdout, '', args.join(' '));
    }
  });

  it('prints errors as JSON with --json', async (t) => {
    const server = await serve(t);
    const { code, stdout } = await cli('pull', server.reference('app:9'), '--json', '--cache-dir', scratch('cli'));
    const { error } = JSON.parse(stdout) as { error: { code: string; message: string } };
    assert.deepEqual([code, error.code], [1, 'ERR_NOT_FOUND']);
  });

  it('stops cleanly on Ctrl-C with exit code 130', async (t) => {
    const server = await serve(t);
    server.faults.add({ on: 'blob', do: 'stall', after: 5 });
    const child = spawn(process.execPath, [MAIN, 'pull', server.reference('app:1'), '--cache-dir', scratch('cli')]);
    let stderr = '';
    child.stderr.on('data', (data: Buffer) => {
      stderr += data.toString();
      if (stderr.includes('resolving') && !child.killed) setTimeout(() => child.kill('SIGINT'), 200);
    });
    const code = await new Promise((resolve) => child.on('exit', resolve));
    assert.equal(code, 130, stderr);
    assert.match(stderr, /error: interrupted/);
  });

  it('knows its version and explains itself', async () => {
    assert.match((await cli('--version')).stdout, /^\d+\.\d+\.\d+\n$/);
    const help = await cli('pull', '--help');
    assert.deepEqual([help.code, help.stdout.includes('Examples:')], [0, true]);
  });
});
