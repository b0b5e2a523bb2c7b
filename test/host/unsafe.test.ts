/** Where Rust's guarantees are switched off: nowhere but on this list, each with its reason in the code. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { describe, it } from 'node:test';

const CRATES = join(__dirname, '../../crates');

/** Every file with an `unsafe` block, and how many there are. SECURITY.md lists the same. */
const ALLOWED: Record<string, number> = {
  'image/src/layer/map.rs': 1, // a file is mapped: mapping has no safe interface
};

function rustFiles(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return entry.name === 'target' ? [] : rustFiles(path);
    return entry.name.endsWith('.rs') ? [path] : [];
  });
}

describe('unsafe code', () => {
  it('is where the list says and nowhere else, with a reason above each block', () => {
    const found: Record<string, number> = {};
    for (const file of rustFiles(CRATES)) {
      const lines = readFileSync(file, 'utf8').split('\n');
      lines.forEach((line, at) => {
        if (!/\bunsafe\s*(\{|fn|impl|extern)/.test(line.replace(/\/\/.*/, ''))) return;
        const above = lines.slice(Math.max(0, at - 6), at).join('\n');
        assert.match(above, /SAFETY:/, `${file}:${at + 1} gives no reason`);
        const name = relative(CRATES, file);
        found[name] = (found[name] ?? 0) + 1;
      });
    }
    assert.deepEqual(found, ALLOWED);
  });

  it('is denied by the workspace, so that each exception is written down', () => {
    assert.match(readFileSync(join(CRATES, '../Cargo.toml'), 'utf8'), /^unsafe_code = "deny"$/m);
  });

  it('meets a release profile that unwinds', () => {
    assert.match(readFileSync(join(CRATES, '../Cargo.toml'), 'utf8'), /^panic = "unwind"$/m);
  });
});
