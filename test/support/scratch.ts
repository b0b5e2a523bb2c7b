/** Temporary directories that are gone when the test file ends. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';

/** A new directory, removed after the tests of this file. */
export function scratch(name: string, parent = tmpdir()): string {
  const directory = mkdtempSync(join(parent, `${name}-`));
  after(() => {
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

/** The same for tens of thousands of files: in memory where that takes user attributes, since disks are slow to delete them. */
export function largeScratch(name: string): string {
  const memory = '/dev/shm';
  const probe = join(memory, `probe-${process.pid}`);
  try {
    writeFileSync(probe, '');
    // Linux takes user attributes on tmpfs since 6.6.
    const takes = spawnSync('setfattr', ['-n', 'user.probe', '-v', '1', probe]).status === 0;
    return scratch(name, takes ? memory : tmpdir());
  } catch {
    return scratch(name);
  } finally {
    rmSync(probe, { force: true });
  }
}
