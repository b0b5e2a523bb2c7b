// Which glibc an addon needs: the newest version among those its symbols name.
import { readFileSync } from 'node:fs';

/** The oldest glibc that a release must load on. */
export const OLDEST = '2.28';

const compare = (left, right) => left.localeCompare(right, 'en', { numeric: true });

/** `2.34`, or undefined where no version is named, as with musl and on macOS. */
export function neededGlibc(path) {
  const versions = [...readFileSync(path, 'latin1').matchAll(/GLIBC_(\d+\.\d+)/g)].map((match) => match[1]);
  return versions.sort(compare).at(-1);
}

/** Whether an addon loads where a release must. */
export function loadsOnOldest(path) {
  const needed = neededGlibc(path);
  return needed === undefined || compare(needed, OLDEST) <= 0;
}
