/**
 * The one `unsafe` block maps index files. Valgrind watches a program that unpacks layers, writes their indexes and reads
 * them through the map: no byte outside the map or of freed memory is touched, and nothing is leaked.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ROOT } from '../support/installed.js';
import { must, requirePrograms, run } from '../support/programs.js';

/** The core's black-box tests of layers, as a program; built if it is not. */
async function layersProgram(): Promise<string> {
  // The same selection as the whole run's, or cargo would build it all again.
  const args = ['test', '--no-run', '--workspace', '--test', 'layers'];
  const lines = await must('cargo', [...args, '--message-format=json'], { cwd: ROOT });
  const built = lines
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as { executable?: string | null; target?: { name: string } })
    .find(({ executable, target }) => typeof executable === 'string' && target?.name === 'layers');
  assert.ok(built?.executable, 'cargo names the program it built');
  return built.executable;
}

/** What is still reachable, or may be, is what threads and statics hold to the end. */
const DEFINITE = ['--show-leak-kinds=definite', '--errors-for-leak-kinds=definite'];

describe('the map of an index', () => {
  it('is read without a memory error, by the word of valgrind', { timeout: 280_000 }, async (t) => {
    if (!requirePrograms(t, 'valgrind', 'cargo')) return;
    const program = await layersProgram();
    const strict = ['--quiet', '--error-exitcode=9', '--leak-check=full', ...DEFINITE];
    // One thread: valgrind runs one at a time anyway. Limits and damage are left out: they are about time and size.
    const tests = ['kinds::', 'links::', 'replacing::', 'whiteouts::', '--test-threads=1'];
    const options = { cwd: join(ROOT, 'crates/image'), timeout: 240_000 };
    const { code, stdout, stderr } = await run('valgrind', [...strict, program, ...tests], options);
    assert.equal(code, 0, `${stdout}\n${stderr}`);
    const passed = /test result: ok\. (\d+) passed/.exec(stdout)?.[1];
    assert.ok(Number(passed) >= 20, stdout);
    t.diagnostic(`${passed ?? ''} tests under valgrind`);
  });
});
