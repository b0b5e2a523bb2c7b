/** `ls`, `rm`, `prune` and `df`: what is in the cache, and what goes from it. */
import type { Command } from 'commander';
import { GlobalCache } from '../cache.js';
import { ImageError } from '../errors.js';
import type { CachedImage, PruneOptions, RemovedItem } from '../room.js';
import { Usage } from './failure.js';
import { size } from './progress.js';
import { cacheDirectory, parseAll, trustedOwner } from './pull.js';
import { json, printable } from './text.js';
import { ago, parseAge, parseBytes, parseCount, table } from './quantity.js';

interface Flags {
  cacheDir?: string;
  trustedOwner?: number[];
  json?: boolean;
}

/** Adds the options of all commands that look at the cache alone. */
export function addCacheOptions(command: Command, json: string): Command {
  return command.addOption(cacheDirectory()).addOption(trustedOwner()).option('--json', json);
}

/** The cache that the flags name. */
export function cacheOf(flags: Flags): GlobalCache {
  return new GlobalCache(flags.cacheDir, flags.trustedOwner === undefined ? {} : { trustedOwners: flags.trustedOwner });
}

/** Adds the commands. */
export function addRoom(program: Command): void {
  const list = program.command('ls').description('list the images of the cache, those used last first');
  addCacheOptions(list, 'print one JSON object an image')
    .addHelpText('after', '\nExamples:\n  $ microsandbox-image ls\n  $ microsandbox-image ls --json | jq .reference\n')
    .action(listImages);
  const remove = program.command('rm').description('remove images and the layers no other image names');
  addCacheOptions(remove.argument('<reference...>', 'images'), 'print one JSON object a reference')
    .addHelpText('after', '\nExample:\n  $ microsandbox-image rm alpine:3.20 debian:12\n')
    .action(removeImages);
  addPrune(program);
  const usage = program.command('df').description('show how much room the cache takes, in allocated bytes');
  addCacheOptions(usage, 'print one JSON object')
    .addHelpText('after', '\nExample:\n  $ microsandbox-image df\n')
    .action(showUsage);
}

function addPrune(program: Command): void {
  const prune = program
    .command('prune')
    .description('make room: without options only what no image names and what crashes left');
  addCacheOptions(prune, 'print one JSON object')
    .option('--keep <n>', 'keep only the n images used last')
    .option('--keep-image <reference>', 'image that stays whatever else is said; repeatable', collect, [])
    .option('--older-than <age>', 'images last used longer ago go: 30d, 12h, 90m')
    .option('--max-size <size>', 'the images least recently used go until the cache is no larger: 500MB, 10GiB')
    .option('--partials', 'all unfinished downloads go (default: those untouched for a week)')
    .option('--no-partials', 'no unfinished download goes')
    .option('--blobs', 'blobs of extracted layers go')
    .option('-n, --dry-run', 'only tell what would go')
    .addHelpText(
      'after',
      '\nNothing goes that another process is at work on.\n\nExamples:\n' +
        '  $ microsandbox-image prune --older-than 30d --max-size 20GiB\n  $ microsandbox-image prune --keep 5 --dry-run\n',
    )
    .action(pruneCache);
}

async function listImages(flags: Flags): Promise<void> {
  const images = await cacheOf(flags).images();
  if (flags.json === true) {
    for (const image of images) print(json(image));
    return;
  }
  const header = ['IMAGE', 'PLATFORM', 'MANIFEST', 'COMPRESSED', 'LAST USED'];
  process.stdout.write(table([header, ...images.map((image) => row(image, Date.now()))]));
}

function row(image: CachedImage, now: number): string[] {
  const platform = image.platform === null ? '-' : printable(Object.values(image.platform).join('/'));
  return [
    image.reference === null ? `(unnamed) ${image.key.slice(0, 12)}` : printable(image.reference),
    platform,
    image.manifestDigest.replace(/^sha\d+:/, '').slice(0, 12),
    image.compressedBytes === null ? '-' : size(image.compressedBytes),
    `${ago(image.lastUsedAt, now)}${image.complete ? '' : ' (incomplete: pull it again)'}`,
  ];
}

async function removeImages(references: string[], flags: Flags): Promise<void> {
  const cache = cacheOf(flags);
  const missing: string[] = [];
  for (const reference of parseAll(references)) {
    const report = await cache.remove(reference);
    const name = reference.toString();
    if (!report.found) missing.push(name);
    else if (flags.json === true) print(json({ reference: name, ...report }));
    else {
      report.kept.forEach(warnKept);
      if (report.removed.length > 0) print(`${name}: freed ${size(report.freedBytes)}`);
    }
  }
  if (missing.length > 0) throw new ImageError('ERR_NOT_CACHED', `not in the cache: ${missing.join(', ')}`);
}

interface PruneFlags extends Flags {
  keep?: string;
  keepImage: string[];
  olderThan?: string;
  maxSize?: string;
  partials?: boolean;
  blobs?: boolean;
  dryRun?: boolean;
}

async function pruneCache(flags: PruneFlags): Promise<void> {
  const options: PruneOptions = { blobs: flags.blobs === true, dryRun: flags.dryRun === true };
  if (flags.keep !== undefined) options.keep = parseCount('--keep', flags.keep);
  if (flags.olderThan !== undefined) options.olderThan = parseAge('--older-than', flags.olderThan);
  if (flags.maxSize !== undefined) options.maxBytes = parseBytes('--max-size', flags.maxSize);
  if (flags.partials !== undefined) options.partials = flags.partials;
  const report = await cacheOf(flags).prune(withKeptImages(options, flags.keepImage));
  if (flags.json === true) {
    print(json(report));
    return;
  }
  report.kept.forEach(warnKept);
  for (const item of report.removed) print(`${item.kind} ${printable(item.name)}: ${item.reason}, ${size(item.bytes)}`);
  print(`${report.dryRun ? 'would free' : 'freed'} ${size(report.freedBytes)}, ${size(report.remainingBytes)} left`);
}

/** A number and a list of images to keep are one option in the library, and exclude each other. */
function withKeptImages(options: PruneOptions, references: string[]): PruneOptions {
  if (references.length === 0) return options;
  if (options.keep !== undefined) throw new Usage('--keep and --keep-image exclude each other');
  return { ...options, keep: references };
}

async function showUsage(flags: Flags): Promise<void> {
  const cache = cacheOf(flags);
  const usage = await cache.usage();
  if (flags.json === true) {
    print(json({ directory: cache.directory, ...usage }));
    return;
  }
  const rows: [string, number][] = [
    ['blobs', usage.blobBytes],
    ['trees', usage.treeBytes],
    ['indexes', usage.indexBytes],
    ['unfinished downloads', usage.partialBytes],
    ['leftovers', usage.leftoverBytes],
    ['metadata', usage.metadataBytes],
    ['foreign files', usage.foreignBytes],
    ['total', usage.bytes],
    ['of it unreferenced', usage.unreferencedBytes],
  ];
  print(`${cache.directory}: ${usage.images} images, ${usage.layers} layers`);
  process.stdout.write(table(rows.map(([name, bytes]) => [name, size(bytes)])));
}

function warnKept(item: RemovedItem): void {
  process.stderr.write(`${item.kind} ${printable(item.name)} stays: ${item.reason}\n`);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}
