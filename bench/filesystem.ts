/**
 * A fresh ext4 for each measured pull, in a file in memory, mounted by loop: what an earlier round left behind (free
 * inodes to skip, a fragmented bitmap, dirty pages) would be measured otherwise. Journal and 256-byte inodes, as a disk
 * has them.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { must, run } from '../test/support/programs.js';

const SIZE = 4 * 2 ** 30;

export interface FreshFilesystem {
  /** Where it is mounted. */
  directory: string;
  remove(): Promise<void>;
}

/** Null if this process may mount, else why not. */
export async function whyNoFilesystem(scratch: string): Promise<string | null> {
  if (process.getuid?.() !== 0) return 'mounting a fresh file system needs root';
  try {
    await (await freshFilesystem(scratch)).remove();
    return null;
  } catch (error) {
    return `a fresh file system can't be mounted: ${(error as Error).message}`;
  }
}

export async function freshFilesystem(scratch: string): Promise<FreshFilesystem> {
  const directory = mkdtempSync(join(scratch, 'bench-'));
  const file = `${directory}.ext4`;
  const descriptor = openSync(file, 'w');
  ftruncateSync(descriptor, SIZE);
  closeSync(descriptor);
  await must('mkfs.ext4', ['-q', '-F', '-I', '256', '-N', '400000', '-O', 'has_journal', file]);
  // The kernel would fill inode tables in the background while we measure.
  await must('mount', ['-o', 'loop,noinit_itable', file, directory]);
  const atExit = (): void => {
    spawnSync('umount', ['-R', '-l', directory]);
    rmSync(directory, { recursive: true, force: true });
    rmSync(file, { force: true });
  };
  process.once('exit', atExit);
  const remove = async (): Promise<void> => {
    // Programs with overlays of their own leave mounts inside, and daemons take a moment to go.
    for (let attempt = 0; ; attempt++) {
      const { code, stderr } = await run('umount', ['-R', directory]);
      if (code === 0) break;
      if (attempt === 20) throw new Error(`${directory} can't be unmounted: ${stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    process.off('exit', atExit);
    rmdirSync(directory);
    rmSync(file);
  };
  return { directory, remove };
}
