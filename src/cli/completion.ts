/** Completion scripts for shells, made from the commands themselves so that they can't be outdated. */
import { Argument, type Command } from 'commander';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

/** Adds the command. */
export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('print a completion script for a shell')
    .addArgument(new Argument('<shell>', 'shell').choices(SHELLS))
    .addHelpText(
      'after',
      '\nExamples:\n  $ source <(microsandbox-image completion bash)\n' +
        '  $ microsandbox-image completion fish > ~/.config/fish/completions/microsandbox-image.fish\n',
    )
    .action((shell: (typeof SHELLS)[number]) => {
      process.stdout.write(shell === 'fish' ? fish(program) : bash(program, shell === 'zsh'));
    });
}

function options(command: Command): string[] {
  return [...command.options.map((option) => option.long ?? option.short ?? ''), '--help'].filter(
    (name) => name !== '',
  );
}

function bash(program: Command, zsh: boolean): string {
  const name = program.name();
  const commands = program.commands.map((command) => command.name());
  const cases = program.commands.map((command) => {
    const references =
      command.name() === 'rm' || command.name() === 'inspect' ? ` $(${name} ls 2>/dev/null | sed '1d;s/ .*//')` : '';
    return `    ${command.name()}) words="${options(command).join(' ')}${references}" ;;\n`;
  });
  const prelude = zsh ? 'autoload -U +X bashcompinit && bashcompinit\n' : '';
  return (
    `${prelude}_microsandbox_image() {\n` +
    '  local words\n  case "${COMP_WORDS[1]}" in\n' +
    `${cases.join('')}    *) words="" ;;\n  esac\n` +
    `  if [ "$COMP_CWORD" -eq 1 ]; then words="${commands.join(' ')} --help --version"; fi\n` +
    '  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))\n' +
    `}\ncomplete -o default -F _microsandbox_image ${name}\n`
  );
}

function fish(program: Command): string {
  const name = program.name();
  const lines = program.commands.flatMap((command) => [
    `complete -c ${name} -n __fish_use_subcommand -f -a ${command.name()} -d ${quoted(command.description())}`,
    ...command.options.flatMap((option) =>
      option.long === undefined
        ? []
        : `complete -c ${name} -n '__fish_seen_subcommand_from ${command.name()}' -l ${option.long.slice(2)} -d ${quoted(option.description)}`,
    ),
  ]);
  return `${lines.join('\n')}\n`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "\\'")}'`;
}
