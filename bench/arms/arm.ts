/** One way of pulling an image, to be measured beside the others. */
import { run } from '../../test/support/programs.js';
import type { Cost } from '../measure.js';

export interface Target {
  /** `127.0.0.1:port/name:tag` */
  reference: string;
  /** The layers' URLs, bottom first. */
  blobs: string[];
  /** The authority that signed the registry's certificate. */
  caPath: string;
}

export interface ArmCost extends Cost {
  /** What is told beside the cost, in seconds. */
  notes?: Record<string, number>;
}

export interface Arm {
  name: string;
  /** What it does, in a few words. */
  title: string;
  /** Programs that must be installed. */
  needs: string[];
  /** Versions of what it runs. */
  version(): Promise<string>;
  /** Pulls into an empty directory on a file system of its own. Starting a daemon isn't part of the cost. */
  pull(target: Target, directory: string): Promise<ArmCost>;
}

/** The first line that a program says of its version. */
export async function versionOf(program: string, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await run(program, args.length > 0 ? args : ['--version']);
  const [line = ''] = `${stdout}${stderr}`.split('\n').filter((text) => /\d/.test(text));
  const number = /\d+(\.\d+)+\S*/.exec(line)?.[0] ?? line.trim();
  return `${program} ${number}`;
}
