#!/usr/bin/env node
/** The command line. stdout carries the answer alone; progress and errors go to stderr. */
import { Command, CommanderError } from 'commander';
import { ImageError } from '../errors.js';
import { addCacheCommands } from './cache-commands.js';
import { addCompletion } from './completion.js';
import { Found, Interrupted, report, Usage } from './failure.js';
import { addPlan } from './plan.js';
import { addPull } from './pull.js';
import { addRoom } from './room.js';
import { addVerify } from './verify.js';
import { version } from './version.js';

/** Runs the program and answers with its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. */
export async function run(argv: readonly string[]): Promise<number> {
  const program = new Command('microsandbox-image')
    .description('Pull, verify, extract and cache OCI container images: no daemon, no root.')
    .version(version(), '-V, --version')
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ outputError: () => undefined })
    .addHelpText(
      'after',
      '\nExamples:\n  $ microsandbox-image pull alpine:3.20\n  $ microsandbox-image pull --json ghcr.io/org/app\n  $ microsandbox-image prune --older-than 30d\n',
    );
  addPull(program);
  addPlan(program);
  addCacheCommands(program);
  addRoom(program);
  addVerify(program);
  addCompletion(program);
  const json = argv.includes('--json');
  try {
    checkHelp(program, argv);
    await program.parseAsync(argv, { from: 'user' });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return usageExit(error, json);
    if (error instanceof Found && json) return 1;
    if (error instanceof Interrupted) return report(error, json, 130);
    if (error instanceof Usage || error instanceof TypeError) return report(error, json, 2);
    if (error instanceof ImageError && /^ERR_INVALID_(REFERENCE|OPTION|DIGEST)$/.test(error.code))
      return report(error, json, 2);
    return report(error, json, 1);
  }
}

/** Help on a command that is not there is wrong usage, not help on all of them. */
function checkHelp(program: Command, [first, name]: readonly string[]): void {
  if (first !== 'help' || name === undefined || name.startsWith('-')) return;
  if (!program.commands.some((command) => command.name() === name)) throw new Usage(`unknown command '${name}'`);
}

function usageExit(error: CommanderError, json: boolean): number {
  // Help and version were asked for and have been printed; help that was not asked for is wrong usage.
  if (error.exitCode === 0) return 0;
  const message = error.message.replace(/^error: /, '').replace(/\n\(Did you mean (.*)\?\)$/, ' (did you mean $1?)');
  const text = error.code === 'commander.help' ? 'no command given; see microsandbox-image --help' : message;
  return report(new Usage(text), json, 2);
}

if (require.main === module) {
  // A reader that goes away, as `head` does, is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  void run(process.argv.slice(2)).then((code) => {
    process.exitCode = code;
  });
}
