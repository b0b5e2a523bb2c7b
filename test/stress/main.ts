/**
 * `npm run stress -- --seconds 300 --seed 7`: many processes at one cache, among them programs on the original crate where
 * they are built, that pull, remove, prune, verify, and are killed and stopped at random moments.
 *
 * The seed decides what each worker does, in which order, and what happens to it; what meets what depends on the machine.
 */
import { parseArgs } from 'node:util';
import { act } from './actor.js';
import { describe, tasks } from './schedule.js';
import { verdict } from './verdict.js';
import { makeWorld, type World } from './world.js';

const WORKERS = 5;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 1e6)) },
      verbose: { type: 'boolean', default: false },
    },
  });
  const [seconds, seed] = [Number(values.seconds), Number(values.seed)];
  if (!(seconds > 0) || !Number.isSafeInteger(seed)) throw new Error('--seconds and --seed take numbers');
  console.log(`stress: ${seconds} s, --seed ${seed}`);
  const world = await makeWorld();
  try {
    const wrong = await run(world, seed, seconds, values.verbose);
    for (const line of wrong) console.error(`wrong: ${line}`);
    if (wrong.length > 0) throw new Error(`${wrong.length} things went wrong with --seed ${seed}`);
  } finally {
    await world.end();
  }
}

async function run(world: World, seed: number, seconds: number, verbose: boolean): Promise<string[]> {
  const wrong: string[] = [];
  const done = new Map<string, number>();
  const until = Date.now() + seconds * 1000;
  const work = async (worker: number): Promise<void> => {
    for (const task of tasks(seed, worker, world.images, world.original !== null)) {
      if (Date.now() >= until || wrong.length >= 10) return;
      const text = describe(task);
      if (verbose) console.log(`${((Date.now() - until) / 1000 + seconds).toFixed(2)} s, worker ${worker}: ${text}`);
      const problem = await act(world, task);
      if (problem !== null) wrong.push(`worker ${worker}: ${text}: ${problem}`);
      const kind = `${task.run === 'original' ? 'original' : task.words[0]}${task.fate.does === 'end' ? '' : ` (${task.fate.does})`}`;
      done.set(kind, (done.get(kind) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
  console.log(
    [...done]
      .sort()
      .map(([kind, count]) => `${kind}: ${count}`)
      .join(', '),
  );
  return [...wrong, ...(await verdict(world))];
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
