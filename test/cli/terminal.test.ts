/** The command line in a real pseudo-terminal, by `script` and Python's `pty`. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { startRegistry, type TestRegistry } from 'microsandbox-image/testing';
import { type Ran, requirePrograms, run } from '../support/programs.js';
import { inPty } from '../support/pty.js';
import { scratch } from '../support/scratch.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');

async function slow(t: { after: (clean: () => Promise<void>) => void }): Promise<TestRegistry> {
  const content = Buffer.from(Array.from({ length: 600_000 }, (_, at) => ((at * at * 31) % 251) ^ ((at >> 7) % 256)));
  const layers = ['a', 'b'].map((name) => [
    { path: `opt/${name}`, content: Buffer.concat([Buffer.from(name), content]) },
  ]);
  const server = await startRegistry({ images: { 'app:1': { layers } } });
  t.after(() => server.close());
  server.faults.add({ on: 'blob', do: 'slow', bytesPerSecond: 300_000 });
  return server;
}

/** Runs a shell's command line in a terminal of so many columns. */
function inTerminal(columns: number, command: string): Promise<Ran> {
  return run('script', ['-qec', `stty cols ${columns} rows 24; ${command}`, '/dev/null']);
}

const quoted = (...words: string[]): string => words.map((word) => `'${word}'`).join(' ');

/** What is on the screen's lines, each as it was drawn, without the sequences that move the cursor. */
function drawn(output: string): string[] {
  // eslint-disable-next-line no-control-regex
  return output.split(/\r|\n|\u001b\[\d*[A-HJKST]/).map((line) => line.replace(/\u001b\[[\d;?]*[A-Za-z]/g, ''));
}

describe('a terminal', () => {
  it('shows a bar for each layer, and the digest at the end', async (t) => {
    if (!requirePrograms(t, 'script', 'stty')) return;
    const server = await slow(t);
    const command = quoted(process.execPath, MAIN, 'pull', server.reference('app:1'), '--cache-dir', scratch('pty'));
    const { code, stdout } = await inTerminal(100, command);
    assert.equal(code, 0, stdout);
    const lines = drawn(stdout);
    const bars = lines.filter((line) => /^[0-9a-f]{12} \[#*-*\]/.test(line));
    assert.equal(new Set(bars.map((line) => line.slice(0, 12))).size, 2, stdout);
    assert.ok(
      bars.some((line) => /\[#+-+\] downloading/.test(line)),
      'a bar in the middle',
    );
    assert.ok(
      bars.some((line) => line.includes('extracted')),
      'a bar at its end',
    );
    assert.ok(
      lines.some((line) => /^sha256:[0-9a-f]{64}$/.test(line)),
      stdout,
    );
    assert.ok(stdout.includes('\u001b[?25h'), 'the cursor is shown again');
  });

  it('that is narrow gets bars that fit', async (t) => {
    if (!requirePrograms(t, 'script', 'stty')) return;
    const server = await slow(t);
    const command = quoted(process.execPath, MAIN, 'pull', server.reference('app:1'), '--cache-dir', scratch('pty'));
    const { code, stdout } = await inTerminal(60, command);
    assert.equal(code, 0, stdout);
    const bars = drawn(stdout).filter((line) => /^[0-9a-f]{12} \[/.test(line));
    assert.ok(bars.length > 0);
    for (const bar of bars) assert.ok(bar.length <= 60, `${bar.length}: ${bar}`);
  });

  it('gets its cursor back after Ctrl-C, and the exit code is 130', async (t) => {
    if (!requirePrograms(t, 'script', 'stty', 'timeout')) return;
    const server = await slow(t);
    const pull = quoted(process.execPath, MAIN, 'pull', server.reference('app:1'), '--cache-dir', scratch('pty'));
    const { stdout } = await inTerminal(80, `timeout --foreground -s INT 1.2 ${pull}; echo "code $?"`);
    // timeout answers with 124 for a program that it had to stop; the program's own code is told by its message.
    assert.match(stdout, /error: interrupted/);
    assert.ok(stdout.lastIndexOf('\u001b[?25h') > stdout.lastIndexOf('\u001b[?25l'), 'the cursor is shown again');
  });

  it('that becomes narrow in the middle gets bars that fit from then on', async (t) => {
    if (!requirePrograms(t, 'python3')) return;
    const server = await slow(t);
    const pull = [process.execPath, MAIN, 'pull', server.reference('app:1'), '--cache-dir', scratch('pty')];
    const { code, before, after } = await inPty(pull, 110, 'downloading', { after: 600, columns: 55 });
    assert.equal(code, 0, before + after);
    const bars = (text: string): string[] => drawn(text).filter((line) => /^[0-9a-f]{12} \[/.test(line));
    assert.ok(
      bars(before).some((bar) => bar.length > 60),
      before,
    );
    // What was on its way when the size changed may still be as wide as it was.
    const narrow = bars(after).slice(2);
    assert.ok(narrow.length > 3, after);
    for (const bar of narrow) assert.ok(bar.length <= 55, `${bar.length}: ${bar}`);
    assert.ok(
      narrow.some((bar) => bar.includes('extracted')),
      'the bars go on to the end',
    );
    assert.match(after, /sha256:[0-9a-f]{64}/);
  });

  it('ends it by one Ctrl-C with 130, its cursor shown and no half of anything left', async (t) => {
    if (!requirePrograms(t, 'python3')) return;
    const server = await slow(t);
    const cache = scratch('pty');
    const pull = [process.execPath, MAIN, 'pull', server.reference('app:1'), '--cache-dir', cache];
    const { code, before, after } = await inPty(pull, 80, 'downloading', { after: 300, keys: '\u0003' });
    assert.equal(code, 130, before + after);
    assert.match(after, /error: interrupted/);
    assert.ok(after.includes('\u001b[?25h'), 'the cursor is shown again');
    const left = readdirSync(join(cache, 'layers')).filter((name) => /\.extracting$|\.extracted$|^\./.test(name));
    assert.deepEqual(left, []);
  });

  it('gets no colours with NO_COLOR', async (t) => {
    if (!requirePrograms(t, 'python3')) return;
    const server = await slow(t);
    const pull = [process.execPath, MAIN, 'pull', server.reference('app:1'), '--cache-dir', scratch('pty')];
    const { code, before, after } = await inPty(pull, 80, 'downloading', { after: 100 }, { NO_COLOR: '1' });
    assert.equal(code, 0);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(before + after, /\u001b\[[\d;]*m/);
  });

  it('is not needed: nothing but text goes into a pipe', async (t) => {
    const server = await slow(t);
    const { stdout, stderr } = await run(process.execPath, [
      ...[MAIN, 'pull', server.reference('app:1'), '--cache-dir', scratch('pipe')],
    ]);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(stdout + stderr, /[\u001b\r]/);
  });
});
