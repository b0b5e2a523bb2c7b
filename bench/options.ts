/** What the command line of the benchmark says. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';

export interface BenchOptions {
  /** Few rounds and a small image: shows that it works, proves nothing. */
  quick: boolean;
  /** Pulls by each arm of each image. */
  rounds: number;
  /** Names of the arms to run; all if undefined. */
  arms?: string[];
  /** Names of the images to pull; all if undefined. */
  images?: string[];
  /** Where the table, the picture and the numbers go. */
  out: string;
  /** Where the file systems are made. Memory, so that no disk is measured. */
  scratch: string;
}

export function parseOptions(args: string[]): BenchOptions {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      arms: { type: 'string' },
      images: { type: 'string' },
      out: { type: 'string', default: join(process.cwd(), 'bench', 'results') },
      scratch: { type: 'string', default: '/dev/shm' },
    },
  });
  const rounds = Number(values.rounds ?? (values.quick ? 2 : 5));
  if (!Number.isSafeInteger(rounds) || rounds < 1) throw new Error('--rounds takes a whole number of at least 1');
  const { quick, out, scratch } = values;
  return { quick, rounds, arms: values.arms?.split(','), images: values.images?.split(','), out, scratch };
}
