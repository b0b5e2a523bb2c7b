/** Commands that look into the cache or at a registry without pulling. */
import type { Command } from 'commander';
import { GlobalCache } from '../cache.js';
import { Registry } from '../registry.js';
import { ImageError } from '../errors.js';
import { addRegistryOptions, interruptible, registryOptions } from './pull.js';
import { asServed, json } from './text.js';

export function addCacheCommands(program: Command): void {
  const inspect = program
    .command('inspect')
    .description('show an image of the cache, or of its registry with --remote');
  addRegistryOptions(inspect.argument('<reference>', 'image'))
    .option('--raw', 'print the manifest as served')
    .option('--remote', 'ask the registry')
    .action(inspectImage);
}

interface Flags {
  cacheDir?: string;
  platform?: string;
  raw?: boolean;
  remote?: boolean;
}

async function inspectImage(reference: string, flags: Flags): Promise<void> {
  if (flags.remote === true) {
    const registry = new Registry(registryOptions(flags));
    const image = await interruptible((signal) => registry.resolve(reference, { signal }));
    process.stdout.write(flags.raw === true ? served(image.rawManifest) : `${json(image, 2)}\n`);
    return;
  }
  const cache = flags.cacheDir === undefined ? new GlobalCache() : new GlobalCache(flags.cacheDir);
  const metadata = cache.readImageMetadata(reference, flags.platform);
  if (metadata === null) throw new ImageError('ERR_NOT_CACHED', `${reference} is not in the cache`);
  if (flags.raw !== true) {
    process.stdout.write(`${json(metadata, 2)}\n`);
    return;
  }
  if (metadata.rawManifest === undefined) {
    throw new ImageError('ERR_NOT_CACHED', `the manifest of ${reference} was not kept by whoever pulled it`);
  }
  process.stdout.write(served(metadata.rawManifest));
}

function served(manifest: string): string {
  return asServed(manifest, process.stdout.isTTY);
}
