/** `microsandbox-image pull REFERENCE…` */
import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import type { PullOptions, RegistryOptions } from '../options.js';
import type { PullResult } from '../pull.js';
import { Reference } from '../reference.js';
import { Registry } from '../registry.js';
import { Interrupted, Usage } from './failure.js';
import { watcher } from './progress.js';
import { parseCount } from './quantity.js';
import { json } from './text.js';

/** What the commands that pull, or plan to, are told. */
export interface PullFlags {
  cacheDir?: string;
  trustedOwner?: number[];
  platform?: string;
  policy?: PullOptions['policy'];
  force?: boolean;
  json?: boolean;
  quiet?: boolean;
  keepBlobs?: boolean;
  spaceCheck?: boolean;
  durable?: boolean;
  insecure: string[];
  caCert: string[];
  accessScope?: string;
  username?: string;
  passwordStdin?: boolean;
  mirror: string[];
  timeout?: string;
}

/** The option that names a cache. */
export function cacheDirectory(): Option {
  const option = new Option('--cache-dir <dir>', 'cache directory (default: ~/.microsandbox/cache)');
  return option.argParser((directory: string) => {
    if (directory === '') throw new Usage('--cache-dir takes a directory, not an empty text');
    return directory;
  });
}

/** The option that names users whose files in the cache are believed. */
export function trustedOwner(): Option {
  const option = new Option('--trusted-owner <uid>', 'user whose files in the cache are believed; repeatable');
  return option.argParser((text: string, before: number[] | undefined) => {
    return [...(before ?? []), parseCount('--trusted-owner', text)];
  });
}

/** Adds the options of all commands that talk to a registry. */
export function addRegistryOptions(command: Command): Command {
  return command
    .addOption(cacheDirectory())
    .addOption(trustedOwner())
    .option('--platform <os/arch[/variant]>', 'platform to pull (default: linux on this CPU)')
    .option('--insecure <host>', 'host that may be spoken to in plain HTTP; repeatable', collect, [])
    .option('--ca-cert <file>', 'PEM file with certificates to trust; repeatable', collect, [])
    .option('--access-scope <name>', 'tenant whose login must have access to what the cache holds')
    .option('--username <name>', 'name to log in with; needs --password-stdin')
    .option('--password-stdin', 'read the password from standard input')
    .option('--mirror <host=url>', 'server to try before a registry; repeatable', collect, [])
    .option('--timeout <seconds>', 'give up on a silent server after this long')
    .option('--json', 'print one JSON object a reference on stdout');
}

/** Adds the options that say what a pull does. */
export function addPolicyOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--policy <policy>', 'when the registry is asked')
        .choices(['if-missing', 'always', 'never'])
        .default('if-missing'),
    )
    .option('--force', 'fetch and extract again')
    .option('--no-keep-blobs', 'drop compressed layers once they are extracted');
}

/** The options of a pull from the flags. */
export function pullOptions(flags: PullFlags): PullOptions {
  const { policy, force, keepBlobs, spaceCheck, durable } = flags;
  return { policy, force, keepBlobs, checkSpace: spaceCheck, durable };
}

export function addPull(program: Command): void {
  const command = program
    .command('pull')
    .description('pull images into the cache')
    .argument('<reference...>', 'images');
  addPolicyOptions(addRegistryOptions(command))
    .option('--durable', 'wait until the images are on the disk')
    .option('--no-space-check', 'try even what can not fit on the disk')
    .option('-q, --quiet', 'no progress')
    .addHelpText(
      'after',
      '\nPrints the manifest digest of each image.\n\nExamples:\n  $ microsandbox-image pull alpine:3.20\n' +
        '  $ microsandbox-image pull --platform linux/arm64 --json debian:12\n',
    )
    .action(pullAll);
}

async function pullAll(references: string[], flags: PullFlags): Promise<void> {
  const registry = new Registry(registryOptions(flags));
  const options = pullOptions(flags);
  for (const reference of parseAll(references)) {
    const result = await pullOne(registry, reference, options, flags.quiet === true || flags.json === true);
    process.stdout.write(`${flags.json === true ? json(result) : result.manifestDigest}\n`);
  }
}

async function pullOne(
  registry: Registry,
  reference: Reference,
  options: PullOptions,
  quiet: boolean,
): Promise<PullResult> {
  return interruptible(async (signal) => {
    const pull = registry.pull(reference, { ...options, signal });
    const watch = watcher(quiet);
    try {
      for await (const event of pull) watch.tell(event);
    } finally {
      watch.end();
    }
    return pull;
  });
}

/** References of a command line. A typing error in the last one must not be found when the first ones are done. */
export function parseAll(references: string[]): Reference[] {
  return references.map((reference) => Reference.parse(reference));
}

/** Runs work that Ctrl-C stops cleanly; a second Ctrl-C stops at once. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const interrupt = (): void => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new Interrupted());
  };
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  try {
    return await work(controller.signal);
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

/** The options of a client from the flags. */
export function registryOptions(flags: Partial<PullFlags>): RegistryOptions {
  const timeout = flags.timeout === undefined ? undefined : milliseconds(flags.timeout);
  return {
    ...(flags.cacheDir === undefined ? {} : { cache: flags.cacheDir }),
    ...(flags.trustedOwner === undefined ? {} : { trustedOwners: flags.trustedOwner }),
    ...(flags.platform === undefined ? {} : { platform: flags.platform }),
    ...(flags.accessScope === undefined ? {} : { accessScope: flags.accessScope }),
    ...(flags.insecure === undefined ? {} : { insecure: flags.insecure }),
    ...(flags.caCert === undefined ? {} : { caCertificates: flags.caCert.map(readPem) }),
    ...(flags.mirror === undefined ? {} : { mirrors: mirrors(flags.mirror) }),
    ...login(flags),
    ...(timeout === undefined ? {} : { connectTimeout: timeout, stallTimeout: timeout }),
  };
}

function login(flags: Partial<PullFlags>): RegistryOptions {
  if (flags.username === undefined && flags.passwordStdin !== true) return {};
  if (flags.username === undefined || flags.passwordStdin !== true) {
    throw new Usage('--username and --password-stdin go together');
  }
  const password = readFileSync(0, 'utf8').replace(/\r?\n$/, '');
  return { auth: { username: flags.username, password } };
}

function readPem(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new Usage(`--ca-cert ${file} can't be read: ${(error as Error).message}`);
  }
}

function mirrors(pairs: string[]): Record<string, string[]> {
  const all: Record<string, string[]> = {};
  for (const pair of pairs) {
    const [, host, url] = /^([^=]+)=(.+)$/.exec(pair) ?? [];
    if (host === undefined || url === undefined) throw new Usage(`--mirror takes HOST=URL, not ${pair}`);
    (all[host] ??= []).push(url);
  }
  return all;
}

function milliseconds(text: string): number {
  const seconds = Number(text);
  if (text.trim() === '' || !(seconds > 0) || seconds > 86_400)
    throw new Usage(`--timeout takes seconds above 0, not ${text}`);
  return Math.ceil(seconds * 1000);
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}
