/** Bad input to every command: one line, the right exit code, nothing done and nothing lost. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { Registry } from 'microsandbox-image';
import { startRegistry } from 'microsandbox-image/testing';
import { run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');

interface Places {
  image: string;
  missing: string;
  /** A cache that holds the image. */
  cache: string;
  /** A file in place of a cache. */
  file: string;
  /** A cache whose `layers` is a link to somewhere else. */
  linked: string;
  /** Nothing. */
  none: string;
}

async function places(t: TestContext): Promise<Places> {
  const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'etc/motd', content: 'hello' }]] } } });
  t.after(() => server.close());
  const directory = scratch('usage');
  const place = {
    image: server.reference('app:1'),
    missing: server.reference('app:9'),
    cache: join(directory, 'cache'),
    file: join(directory, 'file'),
    linked: join(directory, 'linked'),
    none: join(directory, 'none'),
  };
  await new Registry({ cache: place.cache }).pull(place.image);
  writeFileSync(place.file, 'x');
  mkdirSync(place.linked);
  symlinkSync(place.cache, join(place.linked, 'layers'));
  return place;
}

type Case = [code: number, last: RegExp, args: string[]];

/** Wrong words, the same for all commands; the second column is what each command takes. */
function wrongWords(): Case[] {
  const commands: [string, string[]][] = [
    ['pull', ['x']],
    ['plan', ['x']],
    ['inspect', ['x']],
    ['rm', ['x']],
    ['ls', []],
    ['prune', []],
    ['df', []],
    ['verify', []],
  ];
  return commands.flatMap(([command, takes]): Case[] => [
    [2, /^error: unknown option '--frobnicate'$/, [command, ...takes, '--frobnicate']],
    [2, /^error: option '--cache-dir <dir>' argument missing$/, [command, ...takes, '--cache-dir']],
    [2, /^error: --cache-dir takes a directory, not an empty text$/, [command, ...takes, '--cache-dir', '']],
    takes.length > 0
      ? [2, /^error: missing required argument 'reference'$/, [command]]
      : [2, /^error: too many arguments for '\w+'\. Expected 0 arguments but got 1\.$/, [command, 'extra']],
  ]);
}

function wrongValues({ image, missing, cache }: Places): Case[] {
  const here = ['--cache-dir', cache];
  const bad = /^error: invalid image reference "UPPER": /;
  const platform = /^error: invalid option platform: "linux" is not os\/architecture\[\/variant\]$/;
  return [
    [2, bad, ['pull', image, 'UPPER', ...here]],
    [2, bad, ['plan', image, 'UPPER', ...here]],
    [2, bad, ['rm', image, 'UPPER', ...here]],
    [2, bad, ['inspect', 'UPPER', ...here]],
    [2, bad, ['prune', '--keep-image', 'UPPER', ...here]],
    [2, /invalid image reference ""/, ['pull', '', ...here]],
    [2, /invalid digest "sha256:zz"/, ['pull', `${image}@sha256:zz`, ...here]],
    [2, platform, ['pull', image, '--platform', 'linux', ...here]],
    [2, platform, ['plan', image, '--platform', 'linux', ...here]],
    [2, platform, ['inspect', image, '--platform', 'linux', ...here]],
    [
      2,
      /'sometimes' is invalid\. Allowed choices are if-missing, always, never\.$/,
      ['plan', 'x', '--policy', 'sometimes'],
    ],
    [2, /^error: --timeout takes seconds above 0, not 0$/, ['plan', 'x', '--timeout', '0']],
    [2, /^error: --mirror takes HOST=URL, not =x$/, ['inspect', 'x', '--remote', '--mirror', '=x']],
    [2, /^error: invalid option mirrors\["h"\]: it is no URL/, ['pull', 'x', '--mirror', 'h=nothing', ...here]],
    [2, /^error: invalid option caCertificates: there is no cert/, ['pull', 'x', '--ca-cert', MAIN, ...here]],
    [2, /^error: --older-than takes a time such as 30d/, ['prune', '--older-than', '5', ...here]],
    [2, /^error: --max-size takes bytes or a size/, ['prune', '--max-size=-1', ...here]],
    [2, /^error: --keep takes a whole number, not 1\.5$/, ['prune', '--keep', '1.5', ...here]],
    [2, /argument '' is invalid\. Allowed choices are marker, size, content\.$/, ['verify', '--depth', '', ...here]],
    [2, /^error: too many arguments for 'inspect'/, ['inspect', image, image, ...here]],
    [2, /^error: missing required argument 'shell'$/, ['completion']],
    [2, /Allowed choices are bash, zsh, fish\.$/, ['completion', 'tcsh']],
    [2, /^error: unknown command 'nothing'$/, ['nothing']],
    [2, /^error: unknown command 'nothing'$/, ['help', 'nothing']],
    [1, /^error: .*not found at .* \(check the name and the tag\)$/, ['plan', missing, ...here]],
    [1, /^error: .*not found at .* \(check the name and the tag\)$/, ['inspect', missing, '--remote', ...here]],
    [1, /^error: .* is not in the cache/, ['inspect', missing, ...here]],
    [1, /^error: not in the cache: /, ['rm', missing, ...here]],
    [1, /^error: .*is not in the cache and the policy is "never"/, ['plan', missing, '--policy', 'never', ...here]],
  ];
}

function wrongCaches({ image, file, linked, none }: Places): Case[] {
  const each = ['ls', 'df', 'prune', 'verify'].map((command) => [command]);
  const refused = /^error: .*no directory \(a link there is not followed\)$/;
  return [
    ...[...each, ['rm', image], ['pull', image], ['plan', image]].map((args): Case => [
      1,
      refused,
      [...args, '--cache-dir', file],
    ]),
    [1, /^error: .*Not a directory \(os error 20\)$/, ['inspect', image, '--cache-dir', file]],
    ...[...each, ['rm', image], ['pull', image, '--quiet'], ['plan', image]].map((args): Case => [
      1,
      refused,
      [...args, '--cache-dir', linked],
    ]),
    [1, /^error: .*cannot create the cache directory/, ['pull', image, '--quiet', '--cache-dir', '/proc/none']],
    [1, /^error: not in the cache: /, ['rm', image, '--cache-dir', none]],
  ];
}

async function check(cases: Case[]): Promise<void> {
  // Two at a time, as there are cores.
  const queue = [...cases];
  const work = async (): Promise<void> => {
    for (let next; (next = queue.shift()) !== undefined;) {
      const [expected, pattern, args] = next;
      const { code, stdout, stderr } = await run(process.execPath, [MAIN, ...args], { timeout: 60_000 });
      assert.deepEqual([code, stdout, stderr.split('\n').length], [expected, '', 2], `${args.join(' ')}: ${stderr}`);
      assert.match(stderr.trimEnd(), pattern, args.join(' '));
    }
  };
  await Promise.all([work(), work()]);
}

describe('bad input', () => {
  it('is told in one line with exit code 2, or 1 where it is the world that is wrong, and nothing is lost', async (t) => {
    const place = await places(t);
    await check([...wrongWords(), ...wrongValues(place), ...wrongCaches(place)]);
    assert.notEqual(new Registry({ cache: place.cache }).pullCached(place.image), null);
    assert.equal((await new Registry({ cache: place.cache }).cache.verify({ depth: 'content' })).ok, true);
    assert.ok(!existsSync(place.none));
  });

  it('is told as JSON with --json, whatever the command', async (t) => {
    const { cache, missing } = await places(t);
    const cases: [number, string, string[]][] = [
      [2, 'ERR_USAGE', ['pull']],
      [2, 'ERR_USAGE', ['verify', '--depth', 'deep']],
      [2, 'ERR_USAGE', ['prune', '--keep', 'x']],
      [2, 'ERR_INVALID_REFERENCE', ['plan', 'UPPER']],
      [1, 'ERR_NOT_CACHED', ['inspect', missing, '--cache-dir', cache]],
      [1, 'ERR_NOT_CACHED', ['rm', missing, '--cache-dir', cache]],
      [1, 'ERR_NOT_FOUND', ['plan', missing, '--cache-dir', cache]],
    ];
    for (const [expected, name, args] of cases) {
      const { code, stdout, stderr } = await run(process.execPath, [MAIN, ...args, '--json']);
      const { error } = JSON.parse(stdout) as { error: { code: string; message: string } };
      assert.deepEqual([code, error.code, stderr], [expected, name, ''], args.join(' '));
    }
  });

  it('is found before anything is pulled', async (t) => {
    const { image, none } = await places(t);
    const { code } = await run(process.execPath, [MAIN, 'pull', image, 'UPPER', '--cache-dir', none]);
    assert.deepEqual([code, existsSync(none)], [2, false]);
  });
});
