/** `microsandbox-image plan REFERENCE…` */
import type { Command } from 'commander';
import type { PlannedLayer, PullPlan } from '../plan.js';
import { Registry } from '../registry.js';
import {
  addPolicyOptions,
  addRegistryOptions,
  interruptible,
  parseAll,
  type PullFlags,
  pullOptions,
  registryOptions,
} from './pull.js';
import { short, size } from './progress.js';
import { table } from './quantity.js';
import { json, printable } from './text.js';

/** Adds the command. */
export function addPlan(program: Command): void {
  const command = program
    .command('plan')
    .description('tell what a pull would download and need, without doing it')
    .argument('<reference...>', 'images');
  addPolicyOptions(addRegistryOptions(command))
    .addHelpText(
      'after',
      '\nExamples:\n  $ microsandbox-image plan debian:12\n' +
        '  $ microsandbox-image plan --json alpine:3.20 | jq .downloadBytes\n',
    )
    .action(planAll);
}

async function planAll(references: string[], flags: PullFlags): Promise<void> {
  const registry = new Registry(registryOptions(flags));
  for (const reference of parseAll(references)) {
    const plan = await interruptible((signal) => registry.plan(reference, { ...pullOptions(flags), signal }));
    process.stdout.write(flags.json === true ? `${json(plan)}\n` : describe(plan));
  }
}

function describe(plan: PullPlan): string {
  const head = `${plan.reference} (${printable(Object.values(plan.platform).join('/'))}): ${plan.manifestDigest}\n`;
  if (plan.cached) return `${head}in the cache: nothing to do\n`;
  const rows = [['LAYER', 'COMPRESSED', 'STATE'], ...plan.layers.map(row)];
  const free = plan.freeBytes === null ? '' : `, ${size(plan.freeBytes)} are free`;
  const tight = plan.freeBytes !== null && plan.freeBytes < plan.leastDiskBytes ? '; it does not fit' : '';
  const end = `to download: ${size(plan.downloadBytes)}; room needed: about ${size(plan.diskBytes)}, at least ${size(plan.leastDiskBytes)}${free}${tight}\n`;
  return head + table(rows) + end;
}

function row(layer: PlannedLayer): string[] {
  const state = {
    cached: 'in the cache',
    downloaded: 'downloaded, to be extracted',
    partial: `downloaded in part, ${size(layer.downloadBytes)} to come`,
    missing: 'to be downloaded',
  }[layer.state];
  return [short(layer.digest), layer.size === null ? '-' : size(layer.size), state];
}
