/** The machine a number was measured on, in the words of a table's footer. */
import { cpus, release, totalmem } from 'node:os';
import { readFileSync } from 'node:fs';

export function describeMachine(): string {
  const model = cpus()[0]?.model ?? 'unknown processor';
  const memory = (totalmem() / 2 ** 30).toFixed(0);
  return `${cpus().length} × ${model}, ${memory} GiB, Linux ${release()}, ${distribution()}`;
}

function distribution(): string {
  try {
    return /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown system';
  } catch {
    return 'unknown system';
  }
}
