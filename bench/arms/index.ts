/** All arms, ours first. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildOriginal } from '../../test/support/original.js';
import { Group, measure } from '../measure.js';
import { type Arm, type ArmCost, type Target, versionOf } from './arm.js';
import { containerd } from './containerd.js';

const ours: Arm = {
  name: 'ours',
  title: 'microsandbox-image, through Node',
  needs: [],
  version: () => {
    const { version } = JSON.parse(readFileSync(join(process.cwd(), 'package.json'), 'utf8')) as { version: string };
    return Promise.resolve(`${version} on Node ${process.versions.node}`);
  },
  pull: async ({ reference, caPath }, directory) => {
    const group = new Group('ours');
    try {
      const script = join(process.cwd(), 'bench', 'arms', 'ours.cjs');
      const { stdout } = await measure(group, [process.execPath, script, reference, directory, caPath], process.env);
      const { startup, load, ...cost } = JSON.parse(stdout) as ArmCost & { startup: number; load: number };
      return { ...cost, notes: { startup, load } };
    } finally {
      group.close();
    }
  },
};

const original = simple('original', 'the original crate 0.3.13', ['cargo'], async ({ reference }, directory) => [
  ...[await buildOriginal(), 'pull', reference, directory],
]);

const skopeoUmoci = simple('skopeo', 'skopeo + umoci', ['skopeo', 'umoci'], ({ reference }, directory) => {
  const script =
    'skopeo copy --quiet "docker://$1" "oci:$2/oci:image" && umoci unpack --image "$2/oci:image" "$2/bundle"';
  return shell(script, reference, directory);
});

const podman = simple('podman', 'podman', ['podman'], ({ reference }, directory) => {
  const places = [
    '--root',
    join(directory, 'root'),
    '--runroot',
    join(directory, 'run'),
    '--storage-driver',
    'overlay',
  ];
  return ['podman', ...places, '--log-level', 'error', 'pull', '--quiet', reference];
});

/** What the image's file system is in the end, as one archive. */
const crane = simple('crane', 'crane export \\| tar -x', ['crane', 'tar'], ({ reference }, directory) => {
  const script = 'set -o pipefail; crane export "$1" - | tar -x -C "$2"';
  return ['bash', '-ec', script, 'bash', reference, directory];
});

/** No verification, no attributes: the least that puts the files there. */
function curlTar(name: string, inflate: string): Arm {
  return simple(
    name,
    `curl \\| ${inflate} \\| tar -x`,
    ['curl', inflate.split(' ')[0] ?? '', 'tar'],
    (target, directory) => {
      const script = `cd "$1" && shift && ca="$1" && shift && for url; do curl -sSf --cacert "$ca" "$url" | ${inflate} | tar -x; done`;
      return shell(script, directory, target.caPath, ...target.blobs);
    },
  );
}

export const arms: Arm[] = [
  ...[ours, original, curlTar('igzip', 'igzip -dc'), curlTar('gunzip', 'gunzip -c')],
  ...[skopeoUmoci, crane, podman, containerd],
];

/** An arm that is one command. */
function simple(
  name: string,
  title: string,
  needs: string[],
  command: (target: Target, directory: string) => string[] | Promise<string[]>,
): Arm {
  return {
    name,
    title,
    needs,
    version: async () => {
      if (name === 'original') return 'microsandbox-image 0.3.13, release build';
      return (
        await Promise.all(needs.map((program) => versionOf(program, ...(program === 'crane' ? ['version'] : []))))
      ).join(', ');
    },
    pull: async (target, directory) => {
      const words = await command(target, directory);
      const group = new Group(name);
      try {
        const { wall, cpu, memory } = await measure(group, words, trusting(target.caPath));
        return { wall, cpu, memory };
      } finally {
        group.close();
      }
    },
  };
}

/** An environment in which programs trust this authority and no proxy is asked for a registry on loopback. */
function trusting(caPath: string): NodeJS.ProcessEnv {
  const proxies = ['HTTPS_PROXY', 'HTTP_PROXY', 'ALL_PROXY', 'NO_PROXY'].flatMap((name) => [name, name.toLowerCase()]);
  const env = { ...process.env, SSL_CERT_FILE: caPath, SSL_CERT_DIR: '/nonexistent' };
  return Object.fromEntries(Object.entries(env).filter(([name]) => !proxies.includes(name)));
}

function shell(script: string, ...args: string[]): string[] {
  return ['sh', '-ec', script, 'sh', ...args];
}
