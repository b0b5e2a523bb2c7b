/** What is done to the cache: drawn from a seed, so that the same seed gives the same tasks to each worker again. */

/** What happens to a process at work. */
export type Fate =
  { does: 'end' } | { does: 'die'; after: number } | { does: 'stop'; after: number; milliseconds: number };

export interface Task {
  /** Arguments of our command line, or the reference that a program on the original crate pulls. */
  run: 'ours' | 'original';
  /** The command, and the image where it takes one. */
  words: string[];
  image: string | null;
  fate: Fate;
}

/** A small generator of numbers in [0, 1). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    // xorshift, after a step that makes small seeds differ.
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** The tasks of one worker, without an end. */
export function* tasks(seed: number, worker: number, images: string[], original: boolean): Generator<Task, never> {
  const random = generator(seed * 1000 + worker);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const kinds: [number, () => Omit<Task, 'fate'>][] = [
    [8, () => ({ run: 'ours', words: ['pull', '--quiet'], image: pick(images) })],
    [3, () => ({ run: 'ours', words: ['pull', '--quiet', '--force'], image: pick(images) })],
    [1, () => ({ run: 'ours', words: ['pull', '--quiet', '--no-keep-blobs'], image: pick(images) })],
    [3, () => ({ run: original ? 'original' : 'ours', words: ['pull'], image: pick(images) })],
    [2, () => ({ run: 'ours', words: ['rm'], image: pick(images) })],
    [1, () => ({ run: 'ours', words: ['prune', '--keep', '1'], image: null })],
    [1, () => ({ run: 'ours', words: ['prune', '--partials', '--blobs'], image: null })],
    [2, () => ({ run: 'ours', words: ['verify', '--depth', 'content', '--repair'], image: null })],
    [1, () => ({ run: 'ours', words: ['verify', '--depth', 'size'], image: null })],
  ];
  const weight = kinds.reduce((sum, [share]) => sum + share, 0);
  for (;;) {
    let left = random() * weight;
    const kind = kinds.find(([share]) => (left -= share) < 0) ?? kinds[0]!;
    yield { ...kind[1](), fate: fate(random) };
  }
}

function fate(random: () => number): Fate {
  const [kind, when, long] = [random(), random(), random()];
  const after = Math.round(60 + when * 700);
  if (kind < 0.5) return { does: 'end' };
  if (kind < 0.85) return { does: 'die', after };
  return { does: 'stop', after, milliseconds: Math.round(50 + long * 1500) };
}

export function describe({ run, words, image, fate }: Task): string {
  const program = run === 'original' ? ['original'] : [];
  const what = [...program, ...words, ...(image === null ? [] : [image])].join(' ');
  if (fate.does === 'end') return what;
  return fate.does === 'die'
    ? `${what}; killed after ${fate.after} ms`
    : `${what}; stopped after ${fate.after} ms for ${fate.milliseconds} ms`;
}
