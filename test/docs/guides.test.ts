/** The guides are complete: every error code, every option, every page they point to. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';

const ROOT = join(__dirname, '../..');
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

/** The names of an interface's fields in the public declarations. */
function fields(name: string): string[] {
  const body = new RegExp(`^interface ${name} \\{\\n([\\s\\S]*?)^\\}`, 'm').exec(read('index.d.ts'))?.[1] ?? '';
  return [...body.matchAll(/^ {4}(\w+)\??:/gm)].map((match) => match[1] ?? '');
}

describe('the guides', () => {
  it('say what to do about every error code', () => {
    const codes = [...read('index.d.ts').matchAll(/'(ERR_\w+)'/g)].map((match) => match[1] ?? '');
    assert.ok(codes.length > 20);
    const told = read('docs/errors.md');
    assert.deepEqual(
      [...new Set(codes)].filter((code) => !told.includes(`| \`${code}\``)),
      [],
    );
  });

  it('list every option', () => {
    const told = read('docs/options.md');
    const options = [...fields('RegistryOptions'), ...fields('PullOptions'), ...fields('Limits')];
    assert.ok(options.length > 20, options.join());
    const missing = options.filter((name) => name !== 'onProgress' && !told.includes(`\`${name}\``));
    assert.deepEqual(missing, []);
  });

  it('compare with other programs by tests that are there', () => {
    const named = [...read('docs/comparison.md').matchAll(/`((?:test|crates)\/[^`]+)`/g)].map(
      (match) => match[1] ?? '',
    );
    assert.ok(named.length > 5);
    assert.deepEqual(
      named.filter((path) => !existsSync(join(ROOT, path))),
      [],
    );
  });

  it('have a reference that is generated from the declarations', () => {
    const { status, stdout } = spawnSync(process.execPath, [join(ROOT, 'scripts/api-reference.mjs'), '--print'], {
      encoding: 'utf8',
    });
    assert.equal(status, 0);
    assert.equal(read('docs/api.md'), stdout, 'run npm run build:types');
  });

  it('point to pages and files that are there', () => {
    const pages = [
      ...['README.md', 'SECURITY.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md'],
      ...readdirSync(join(ROOT, 'docs')).map((name) => `docs/${name}`),
    ].filter((page) => page.endsWith('.md'));
    const broken = pages.flatMap((page) =>
      [...read(page).matchAll(/\]\((?!https?:|#)([^)#]+)/g)]
        .map((match) => match[1] ?? '')
        .filter((link) => !existsSync(join(ROOT, dirname(page), link)))
        .map((link) => `${page}: ${link}`),
    );
    assert.deepEqual(broken, []);
  });
});
