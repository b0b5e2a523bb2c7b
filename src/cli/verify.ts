/** `microsandbox-image verify` */
import { type Command, Option } from 'commander';
import type { Problem, VerifyOptions, VerifyReport } from '../room.js';
import { Found } from './failure.js';
import { interruptible } from './pull.js';
import { addCacheOptions, cacheOf } from './room.js';
import { json, printable } from './text.js';

interface Flags {
  cacheDir?: string;
  json?: boolean;
  depth: NonNullable<VerifyOptions['depth']>;
  repair?: boolean;
}

/** Adds the command. */
export function addVerify(program: Command): void {
  const command = program.command('verify').description('look for damage in the cache');
  addCacheOptions(command, 'print one JSON object')
    .addOption(
      new Option('--depth <depth>', 'marker: trees are there; size: also every file; content: also every byte')
        .choices(['marker', 'size', 'content'])
        .default('size'),
    )
    .option('--repair', 'extract again what is damaged, or remove it so that the next pull brings it in')
    .addHelpText(
      'after',
      '\nEnds with 1 if something is wrong and was not repaired.\n\nExamples:\n  $ microsandbox-image verify\n' +
        '  $ microsandbox-image verify --depth content --repair\n',
    )
    .action(verifyCache);
}

async function verifyCache(flags: Flags): Promise<void> {
  const { depth, repair = false } = flags;
  const report = await interruptible((signal) => cacheOf(flags).verify({ depth, repair, signal }));
  process.stdout.write(flags.json === true ? `${json(report)}\n` : describe(report));
  if (!report.ok) {
    const count = report.problems.filter(({ repaired }) => repaired === null).length;
    throw new Found(
      `${count} problem${count === 1 ? '' : 's'} found${repair ? ' that could not be repaired' : ' (run verify --repair)'}`,
    );
  }
}

function describe(report: VerifyReport): string {
  const skipped = report.skipped.map(
    ({ layer, reason }) => `${printable(`${layer}: not looked at in depth: ${reason}`)}\n`,
  );
  const end = `${report.images} images, ${report.layers} layers: ${report.ok ? 'ok' : 'damaged'}\n`;
  return [...report.problems.map(line), ...skipped, end].join('');
}

function line({ kind, path, detail, images, repaired }: Problem): string {
  const needed = images.length === 0 ? '' : ` (needed by ${images.join(', ')})`;
  return `${printable(`${path}: ${kind}: ${detail}${needed}${repaired === null ? '' : `: ${repaired}`}`)}\n`;
}
