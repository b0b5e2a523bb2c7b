/** Small file systems of their own, in files: full ones, ones without inodes, ones that lose power. */
import { spawnSync } from 'node:child_process';
import { closeSync, copyFileSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

/** A mounted file system. */
export interface Mounted {
  /** Where it is mounted. */
  directory: string;
  /** The file that is its disk. */
  disk: string;
}

/** Makes an ext4 of so many bytes and mounts it until the test ends. `null`, and the test skipped, where that can't be. */
export function mountNew(
  t: TestContext,
  bytes: number,
  { make = [], options = '' }: { make?: string[]; options?: string } = {},
): Mounted | null {
  const disk = newDisk(t);
  const file = openSync(disk, 'w');
  ftruncateSync(file, bytes);
  closeSync(file);
  // Nothing is kept back for the superuser, so that everybody has the same room.
  if (!ran('mkfs.ext4', '-q', '-F', '-m', '0', ...make, disk)) return refuse(t, 'mkfs.ext4 failed');
  return mountDisk(t, disk, options);
}

/** Mounts what a disk holds at this moment, as after a power cut: what the kernel did not write yet is not there. */
export function mountAsWritten(t: TestContext, mounted: Mounted): Mounted | null {
  const disk = newDisk(t);
  copyFileSync(mounted.disk, disk);
  return mountDisk(t, disk, '');
}

/** The path of a disk to be made, unmounted and removed after the test. */
function newDisk(t: TestContext): string {
  const scratch = mkdtempSync(join(tmpdir(), 'disk-'));
  const disk = join(scratch, 'disk');
  t.after(() => {
    ran('umount', '-l', `${disk}.mounted`);
    rmSync(scratch, { recursive: true, force: true });
  });
  return disk;
}

function mountDisk(t: TestContext, disk: string, options: string): Mounted | null {
  const directory = `${disk}.mounted`;
  mkdirSync(directory);
  if (!ran('mount', '-o', ['loop', options].filter((text) => text !== '').join(','), disk, directory)) {
    return refuse(t, 'loop devices can not be mounted here (they need root)');
  }
  return { directory, disk };
}

function refuse(t: TestContext, why: string): null {
  if (process.env['CI'] !== undefined && process.getuid?.() === 0) throw new Error(why);
  t.skip(why);
  return null;
}

function ran(program: string, ...args: string[]): boolean {
  return spawnSync(program, args, { stdio: 'ignore', timeout: 60_000 }).status === 0;
}
