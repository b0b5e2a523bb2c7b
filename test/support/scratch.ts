/** Temporary directories that are gone when the test file ends. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';

/** A new directory, removed after the tests of this file. */
export function scratch(name: string): string {
  const directory = mkdtempSync(join(tmpdir(), `${name}-`));
  after(() => {
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}
