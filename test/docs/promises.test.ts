/** The security model promises nothing without a test: each one it names is there, in the file it names. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

const ROOT = join(__dirname, '../..');
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
const MODEL = read('docs/security-model.md');

interface Promised {
  promise: string;
  /** Names of tests, or `all` of the file. */
  tests: string[];
  files: string[];
}

const codes = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? '');

/** The rows of the tables of promises. */
function promises(): Promised[] {
  const rows: Promised[] = [];
  let inTable = false;
  for (const line of MODEL.split('\n')) {
    const [promise = '', test = '', file = ''] = line.split('|').slice(1, -1);
    if (!line.startsWith('|')) inTable = false;
    else if (promise.trim() === 'promise') inTable = true;
    else if (inTable && !/^\s*-+\s*$/.test(promise))
      rows.push({
        promise: promise.trim(),
        tests: test.trim() === 'all' ? ['all'] : codes(test),
        files: codes(file),
      });
  }
  return rows;
}

/** Whether a source has a test of that name: a function of Rust with its attribute, or a test of Node's runner. */
function hasTest(source: string, name: string): boolean {
  const text = name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const rust = new RegExp(`#\\[(tokio::)?test(\\(.*\\))?\\]\\s+(#\\[.*\\]\\s+)*(async )?fn ${text}\\(`);
  // Tests of a macro (proptest) or a runner of their own (loom, shuttle) have no attribute of the compiler right above.
  const made = new RegExp(`^\\s*(async )?fn ${text}\\(`, 'm');
  const node = new RegExp(`\\b(it|test)\\(\\s*['"\`]${text}['"\`]`);
  return node.test(source) || rust.test(source) || (/proptest!|shuttle|loom/.test(source) && made.test(source));
}

function sources(directory: string, ends: string): string[] {
  return readdirSync(join(ROOT, directory), { withFileTypes: true }).flatMap((entry) => {
    const path = `${directory}/${entry.name}`;
    if (entry.isDirectory())
      return ['target', 'node_modules', 'original'].includes(entry.name) ? [] : sources(path, ends);
    return entry.name.endsWith(ends) ? [path] : [];
  });
}

describe('the security model', () => {
  it('names for each promise tests that are there', () => {
    const rows = promises();
    assert.ok(rows.length > 60, `${rows.length} promises`);
    const broken = rows.flatMap(({ promise, tests, files }) => {
      const missing = files.filter((file) => !existsSync(join(ROOT, file)));
      if (tests.length === 0 || files.length === 0 || missing.length > 0) return [`${promise}: ${missing.join()}`];
      const texts = files.map(read);
      const lost = tests.filter((name) => name !== 'all' && !texts.some((text) => hasTest(text, name)));
      const idle = files.filter((_, at) => !tests.some((name) => name === 'all' || hasTest(texts[at] ?? '', name)));
      return [...lost, ...idle].map((name) => `${promise}: ${name}`);
    });
    assert.deepEqual(broken, []);
  });

  it('names no test anywhere that is gone', () => {
    const all = [...sources('crates', '.rs'), ...sources('test', '.test.ts')].map(read).join('\n');
    const names = codes(MODEL).filter((name) => /^[a-z0-9]+(_[a-z0-9]+){3,}$/.test(name));
    assert.ok(names.length > 60);
    assert.deepEqual(
      names.filter((name) => !new RegExp(`\\bfn ${name}\\(`).test(all)),
      [],
    );
  });

  it('would notice a test that is missing', () => {
    assert.ok(hasTest('#[test]\nfn it_holds() {', 'it_holds'));
    assert.ok(hasTest("it('holds, and more', () => {", 'holds, and more'));
    assert.ok(!hasTest('fn it_holds() {', 'it_holds'), 'a function that is no test');
    assert.ok(!hasTest("it('holds, and more', () => {", 'holds'));
  });
});
