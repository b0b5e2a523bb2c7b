/** One task as a process of its own, with what happens to it on the way. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import type { Task } from './schedule.js';
import type { World } from './world.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
/** No task takes that long unless it hangs. */
const DEADLINE = 90_000;

/** The end of the last program on the original crate. */
let original: Promise<unknown> = Promise.resolve();

/** Runs a task. Answers with what is wrong, or null. */
export async function act(world: World, task: Task): Promise<string | null> {
  if (task.run !== 'original') return actAtOnce(world, task);
  // Never two of them: the original waits for one layer's lock while it holds another's, so two wait for each other for ever.
  const turn = original.then(() => actAtOnce(world, task));
  original = turn.catch(() => undefined);
  return turn;
}

async function actAtOnce(world: World, task: Task): Promise<string | null> {
  const [program, args] = command(world, task);
  const env = { ...process.env, SSL_CERT_FILE: world.certificates.caPath, SSL_CERT_DIR: '' };
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (data: Buffer) => (output += data.toString()));
  child.stderr.on('data', (data: Buffer) => (output += data.toString()));
  const { fate } = task;
  const timers: NodeJS.Timeout[] = [];
  const later = (milliseconds: number, signal: NodeJS.Signals) =>
    timers.push(setTimeout(() => child.kill(signal), milliseconds));
  if (fate.does === 'die') later(fate.after, 'SIGKILL');
  if (fate.does === 'stop') {
    later(fate.after, 'SIGSTOP');
    later(fate.after + fate.milliseconds, 'SIGCONT');
  }
  const started = Date.now();
  later(DEADLINE, 'SIGKILL');
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.on('error', reject).on('close', (...ended) => {
      resolve(ended);
    });
  });
  timers.forEach(clearTimeout);
  if (Date.now() - started >= DEADLINE) return `it hangs; ${output}`;
  if (signal === 'SIGKILL' && fate.does === 'die') return null;
  if (task.words[0] === 'rm' && output.includes('not in the cache')) return null;
  if (code !== 0) return `it ended with ${code ?? signal}: ${output}`;
  return task.words.includes('verify') ? damage(output) : null;
}

/** Nothing may ever be damaged, also not for the moment until it is repaired. */
function damage(output: string): string | null {
  const { problems } = JSON.parse(output) as { problems: unknown[] };
  return problems.length === 0 ? null : JSON.stringify(problems);
}

function command(world: World, { run, words, image }: Task): [string, string[]] {
  const reference = image === null ? [] : [world.server.reference(image)];
  if (run === 'original') return [world.original!, [...words, ...reference, world.cache, 'if-missing']];
  const trust = words[0] === 'pull' ? ['--ca-cert', world.certificates.caPath] : [];
  return [process.execPath, [MAIN, ...words, ...reference, ...trust, '--cache-dir', world.cache, '--json']];
}
