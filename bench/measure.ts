/**
 * Runs a program and says what it cost: wall time, processor time and peak memory of all processes it started, daemons
 * included. Processor time comes from a control group (cgroup 2), which misses no child; memory is the sum of every process's
 * own peak, read while they live, so it is an upper bound where they don't peak together.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { spawn } from 'node:child_process';

export interface Cost {
  /** Seconds. */
  wall: number;
  /** Seconds of user and system time; NaN where the machine doesn't say. */
  cpu: number;
  /** Bytes. */
  memory: number;
}

const SAMPLE_MILLISECONDS = 20;

/** A control group of its own for each measured thing; without one only wall time and memory are known. */
export class Group {
  readonly #directory: string | null;
  readonly #peaks = new Map<number, number>();
  #timer: NodeJS.Timeout | undefined;

  constructor(name: string) {
    this.#directory = makeGroup(`${name}-${process.pid}-${Date.now()}`);
    this.#timer = setInterval(() => {
      this.#sample();
    }, SAMPLE_MILLISECONDS);
  }

  /** The words before a command that make it run in this group. */
  get prefix(): string[] {
    if (this.#directory === null) return [];
    return ['sh', '-c', `echo $$ > ${join(this.#directory, 'cgroup.procs')}; exec "$@"`, 'sh'];
  }

  /** Seconds of processor time so far. */
  cpu(): number {
    if (this.#directory === null) return NaN;
    const text = readFileSync(join(this.#directory, 'cpu.stat'), 'utf8');
    return Number(/usage_usec (\d+)/.exec(text)?.[1] ?? NaN) / 1e6;
  }

  /** Bytes at the peak so far. */
  memory(): number {
    this.#sample();
    return [...this.#peaks.values()].reduce((sum, peak) => sum + peak, 0);
  }

  /** Ends it. All its processes must be gone. */
  close(): void {
    clearInterval(this.#timer);
    if (this.#directory === null) return;
    try {
      rmdirSync(this.#directory);
    } catch {
      // A process is still on its way out: an empty group costs nothing.
    }
  }

  #sample(): void {
    if (this.#directory === null) return;
    for (const line of readFileSync(join(this.#directory, 'cgroup.procs'), 'utf8').split('\n')) {
      if (line === '') continue;
      const peak = peakOf(Number(line));
      if (peak > (this.#peaks.get(Number(line)) ?? 0)) this.#peaks.set(Number(line), peak);
    }
  }
}

/** Runs a command to its end inside a group and says what was spent between. */
export async function measure(
  group: Group,
  command: string[],
  env: NodeJS.ProcessEnv,
): Promise<Cost & { stdout: string }> {
  const [program = '', ...args] = [...group.prefix, ...command];
  const before = group.cpu();
  const started = process.hrtime.bigint();
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (data: Buffer) => (output.stdout += data.toString()));
  child.stderr.on('data', (data: Buffer) => (output.stderr += data.toString()));
  const code = await new Promise((resolve, reject) => {
    child.on('error', reject).on('close', resolve);
  });
  const wall = Number(process.hrtime.bigint() - started) / 1e9;
  const cost = { wall, cpu: group.cpu() - before, memory: group.memory() };
  if (code !== 0)
    throw new Error(`${command.join(' ')} ended with ${String(code)}: ${output.stderr.trim().slice(-600)}`);
  return { ...cost, stdout: output.stdout };
}

function peakOf(pid: number): number {
  try {
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024;
  } catch {
    return 0; // It has ended.
  }
}

function makeGroup(name: string): string | null {
  try {
    const mounts = readFileSync('/proc/mounts', 'utf8').split('\n');
    const root = mounts.map((line) => line.split(' ')).find(([, , type]) => type === 'cgroup2')?.[1];
    const own = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
    if (root === undefined || own === undefined) return null;
    const directory = join(root, own, name);
    mkdirSync(directory);
    if (readdirSync(directory).includes('cpu.stat')) return directory;
    rmdirSync(directory);
    return null;
  } catch {
    return null;
  }
}
