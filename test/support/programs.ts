/** Real programs that tests compare with. Where one is missing a test says so and is skipped; in CI none may be. */
import { spawn, spawnSync, type SpawnOptions } from 'node:child_process';
import type { TestContext } from 'node:test';

/** True if a program is on the PATH. */
export function has(program: string): boolean {
  return spawnSync('sh', ['-c', `command -v "${program}"`]).status === 0;
}

/** Skips the test with a printed reason if a program is missing. Answers whether the test may go on. */
export function requirePrograms(t: TestContext, ...programs: string[]): boolean {
  const missing = programs.filter((program) => !has(program));
  if (missing.length === 0) return true;
  if (process.env['CI'] !== undefined) throw new Error(`CI lacks ${missing.join(', ')}`);
  t.skip(`not installed: ${missing.join(', ')}`);
  return false;
}

export interface Ran {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end. */
export function run(program: string, args: string[], options: SpawnOptions = {}): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    const output = { stdout: '', stderr: '' };
    child.stdout?.on('data', (data: Buffer) => (output.stdout += data.toString()));
    child.stderr?.on('data', (data: Buffer) => (output.stderr += data.toString()));
    child.on('error', reject).on('close', (code) => {
      resolve({ code, ...output });
    });
  });
}

/** Runs a program that must succeed. */
export async function must(program: string, args: string[], options: SpawnOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await run(program, args, options);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}: ${stderr || stdout}`);
  return stdout;
}
