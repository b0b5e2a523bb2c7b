/** The original crate, by the small program in `test/original`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { must, run } from './programs.js';

const directory = join(__dirname, '..', 'original');
const program = join(directory, 'target', 'release', 'original');

export interface OriginalResult {
  layers: string[];
  manifestDigest: string;
  cached: boolean;
  env: string[];
  milliseconds: number;
}

export interface OriginalIndex {
  directories: {
    path: string;
    opaque: boolean;
    entries: {
      name: string;
      mode: number;
      size: number;
      uid: number;
      gid: number;
      inode: string;
      whiteout: boolean;
      directory: number;
    }[];
  }[];
  hardLinks: { inode: string; path: string }[];
}

/** Builds the program, if it is not built. */
export async function buildOriginal(): Promise<string> {
  await must('cargo', ['build', '--release', '--locked', '--quiet'], { cwd: directory });
  if (!existsSync(program)) throw new Error('the program of the original crate was not built');
  return program;
}

/** Pulls with it. It speaks HTTPS only and trusts the given file of certificates. */
export async function pullWithOriginal(
  reference: string,
  cache: string,
  caPath: string,
  policy: 'if-missing' | 'always' | 'never' = 'if-missing',
): Promise<OriginalResult> {
  const env = { ...process.env, SSL_CERT_FILE: caPath, SSL_CERT_DIR: '' };
  // It has no time-out of its own.
  const { code, stdout, stderr } = await run(program, ['pull', reference, cache, policy], { env, timeout: 120_000 });
  if (code !== 0) throw new Error(`the original failed: ${stderr}`);
  return JSON.parse(stdout) as OriginalResult;
}

/** Reads an index with its reader. */
export async function indexByOriginal(file: string): Promise<OriginalIndex> {
  return JSON.parse(await must(program, ['index', file])) as OriginalIndex;
}
