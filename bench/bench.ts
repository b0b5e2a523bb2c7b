/**
 * The same pulls by all arms, side by side: in one run, in turns, each on a fresh file system, from one registry on
 * loopback. Prints a table and writes it with a picture and the raw numbers.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { has } from '../test/support/programs.js';
import type { Arm, ArmCost } from './arms/arm.js';
import { arms as allArms } from './arms/index.js';
import { freshFilesystem, whyNoFilesystem } from './filesystem.js';
import { type BenchImage, serveImages } from './images.js';
import { describeMachine } from './machine.js';
import { type BenchOptions, parseOptions } from './options.js';
import { drawPicture } from './picture.js';
import { writeTable } from './table.js';

export interface Series {
  arm: Arm;
  image: BenchImage;
  costs: ArmCost[];
}

export interface Report {
  machine: string;
  versions: Record<string, string>;
  rounds: number;
  series: Series[];
}

export async function runBench(args: string[]): Promise<void> {
  const options = parseOptions(args);
  const refusal = await whyNoFilesystem(options.scratch);
  if (refusal !== null) {
    console.log(`No benchmark: ${refusal}.`);
    return;
  }
  const arms = chooseArms(options);
  const names = options.images ?? (options.quick ? ['small'] : ['debian', 'modules']);
  const served = await serveImages(names, options.scratch);
  try {
    const series: Series[] = [];
    for (const image of served.images) series.push(...(await pullInTurns(image, arms, options)));
    const versions: Record<string, string> = {};
    for (const arm of arms) versions[arm.name] = await arm.version();
    report({ machine: describeMachine(), versions, rounds: options.rounds, series }, options.out);
  } finally {
    await served.stop();
  }
}

function chooseArms(options: BenchOptions): Arm[] {
  const { arms: names } = options;
  for (const name of names ?? []) {
    if (!allArms.some((arm) => arm.name === name)) throw new Error(`there is no arm ${name}`);
  }
  return allArms.filter((arm) => {
    if (names !== undefined && !names.includes(arm.name)) return false;
    const missing = arm.needs.filter((program) => !has(program));
    if (missing.length > 0) console.log(`Without ${arm.name}: ${missing.join(', ')} not installed.`);
    return missing.length === 0;
  });
}

/** One unmeasured pull by the first arm warms the registry's files; then round by round, every other one backwards. */
async function pullInTurns(image: BenchImage, arms: Arm[], options: BenchOptions): Promise<Series[]> {
  const series = arms.map((arm): Series => ({ arm, image, costs: [] }));
  if (arms[0] !== undefined) await pullOnce(arms[0], image, options.scratch);
  for (let round = 0; round < options.rounds; round++) {
    for (const { arm, costs } of round % 2 === 0 ? series : [...series].reverse()) {
      const cost = await pullOnce(arm, image, options.scratch);
      costs.push(cost);
      const memory = (cost.memory / 2 ** 20).toFixed(0);
      const [wall, cpu] = [cost.wall.toFixed(3), cost.cpu.toFixed(3)];
      console.log(`${image.name} round ${round + 1} ${arm.name}: ${wall} s, ${cpu} s of processor, ${memory} MiB`);
    }
  }
  return series;
}

async function pullOnce(arm: Arm, image: BenchImage, scratch: string): Promise<ArmCost> {
  const filesystem = await freshFilesystem(scratch);
  try {
    return await arm.pull(image, filesystem.directory);
  } finally {
    await filesystem.remove();
  }
}

function report(results: Report, out: string): void {
  const table = writeTable(results);
  console.log(`\n${table}`);
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'table.md'), table);
  writeFileSync(join(out, 'times.svg'), drawPicture(results));
  const raw = results.series.map(({ arm, image, costs }) => ({ arm: arm.name, image: image.name, costs }));
  writeFileSync(join(out, 'results.json'), `${JSON.stringify({ ...results, series: raw }, null, 1)}\n`);
  console.log(`written to ${out}`);
}
