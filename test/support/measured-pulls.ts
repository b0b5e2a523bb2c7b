/**
 * A program that pulls and tells what that took at its height: resident memory above idle, descriptors, threads.
 *
 * Arguments: a JSON of the references, the cache and options of the registry. Answers with a JSON on its last line.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Registry, type RegistryOptions } from 'microsandbox-image';

/** What was seen. */
export interface Measured {
  /** Bytes of resident memory before the pulls, and at their height. */
  idle: number;
  peak: number;
  /** Open descriptors and threads of the process at their height. */
  descriptors: number;
  threads: number;
  /** Layers of each image. */
  layers: number[];
}

/** What is to be pulled. */
export interface Order {
  references: string[];
  options: RegistryOptions;
}

function status(field: string): number {
  const line = new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(line?.[1]);
}

async function main(): Promise<void> {
  const { references, options } = JSON.parse(process.argv[2] ?? '') as Order;
  const registry = new Registry(options);
  // The first image loads what every program loads once: the addon, its threads, what the event loop needs.
  await registry.pull(references[0] ?? '');
  globalThis.gc?.();
  // The kernel forgets the height so far.
  writeFileSync('/proc/self/clear_refs', '5');
  const measured: Measured = { idle: status('VmRSS') * 1024, peak: 0, descriptors: 0, threads: 0, layers: [] };
  const clock = setInterval(() => {
    measured.descriptors = Math.max(measured.descriptors, readdirSync('/proc/self/fd').length);
    measured.threads = Math.max(measured.threads, status('Threads'));
  }, 5);
  const pulled = await Promise.all(references.slice(1).map((reference) => registry.pull(reference)));
  clearInterval(clock);
  measured.peak = status('VmHWM') * 1024;
  measured.layers = pulled.map(({ layers }) => layers.length);
  console.log(JSON.stringify(measured));
}

if (require.main === module) {
  main().catch((error: unknown) => {
    console.error(error);
    process.exitCode = 1;
  });
}
