/** The declarations as a user's compiler and editor get them: from the installed package, in each module system. */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { type Installed, install, ROOT } from '../support/installed.js';
import { run } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const base = scratch('types');
let installed: Installed;
const bin = (name: string) => join(ROOT, 'node_modules/.bin', name);

before(async () => {
  installed = await install(base);
  // The one thing beside the package that its declarations need, and they say so.
  symlinkSync(join(ROOT, 'node_modules/@types'), join(installed.directory, 'node_modules/@types'));
});

/** Compiles the type tests in the installed folder, under each of the names. */
async function compile(names: string[], compilerOptions: Record<string, unknown>): Promise<void> {
  for (const name of names) copyFileSync(join(ROOT, 'test/types/face.ts'), join(installed.directory, name));
  const strictest = {
    strict: true,
    noEmit: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    target: 'ES2022',
    lib: ['ES2022'],
    types: ['node'],
  };
  const config = { compilerOptions: { ...strictest, ...compilerOptions }, files: names };
  const path = join(installed.directory, `tsconfig.${names.join('-')}.json`);
  writeFileSync(path, JSON.stringify(config));
  const { code, stdout } = await run(bin('tsc'), ['-p', path], { cwd: installed.directory });
  assert.equal(code, 0, stdout);
}

describe('the declarations', () => {
  it('promise what the type tests say, to ES modules and to CommonJS', () =>
    compile(['face.mts', 'face.cts'], { module: 'node16', skipLibCheck: false }));

  it('promise what the type tests say, to a bundler', () =>
    compile(['face.ts'], { module: 'ESNext', moduleResolution: 'bundler', skipLibCheck: true }));

  it('are found wrong by neither publint nor arethetypeswrong', async () => {
    const main = installed.packed.at(-1) ?? '';
    const lint = await run(bin('publint'), [main, '--strict'], { cwd: installed.directory });
    assert.equal(lint.code, 0, lint.stdout);
    assert.match(lint.stdout, /All good!/);
    const types = await run(bin('attw'), [main, '--no-emoji', '--profile', 'node16'], { cwd: installed.directory });
    assert.equal(types.code, 0, types.stdout);
    assert.match(types.stdout, /No problems found/);
  });

  it('name nothing of the inside, and document each public name', () => {
    for (const file of ['index.d.ts', 'testing.d.ts']) {
      const text = readFileSync(join(installed.directory, 'node_modules/microsandbox-image', file), 'utf8');
      assert.doesNotMatch(text, /@internal|\bNative[A-Z]|binding\.js|\bany\b(?=[;,)\]|])/, file);
      const lines = text.split('\n');
      const undocumented = lines.filter((line, at) => {
        if (!/^(declare )?(class|function|interface|type|const) /.test(line)) return false;
        return !(lines[at - 1] ?? '').trim().endsWith('*/');
      });
      assert.deepEqual(undocumented, [], file);
    }
  });
});
