/** containerd by its own client. The daemon is started anew for each pull, on the fresh file system; its work counts, its start doesn't. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../test/support/programs.js';
import { Group, measure } from '../measure.js';
import { type Arm, type Target, versionOf } from './arm.js';

export const containerd: Arm = {
  name: 'ctr',
  title: 'containerd (ctr pull)',
  needs: ['containerd', 'ctr'],
  version: () => versionOf('containerd'),
  pull: async (target, directory) => {
    const group = new Group('ctr');
    const socket = join(directory, 'containerd.sock');
    const daemon = startDaemon(group, directory, socket);
    try {
      await waitUntilUp(socket);
      const hosts = writeHosts(target, directory);
      const command = ['ctr', '-a', socket, 'images', 'pull', '--hosts-dir', hosts, target.reference];
      const { wall, cpu, memory } = await measure(group, command, process.env);
      return { wall, cpu, memory };
    } finally {
      await new Promise((resolve) => {
        daemon.once('exit', resolve);
        daemon.kill('SIGTERM');
      });
      group.close();
    }
  },
};

function startDaemon(group: Group, directory: string, socket: string): ChildProcess {
  const config = join(directory, 'config.toml');
  // The plug-in for Kubernetes would look for networks.
  writeFileSync(config, 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n');
  const places = ['--root', join(directory, 'root'), '--state', join(directory, 'state'), '--address', socket];
  const words = [...group.prefix, 'containerd', '--config', config, '--log-level', 'error', ...places];
  return spawn(words[0] ?? '', words.slice(1), { stdio: 'ignore' });
}

async function waitUntilUp(socket: string): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    if ((await run('ctr', ['-a', socket, '--connect-timeout', '1s', 'version'])).code === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('containerd does not come up');
}

function writeHosts({ reference, caPath }: Target, directory: string): string {
  const [host = ''] = reference.split('/');
  const hosts = join(directory, 'hosts');
  // A colon in the name of the directory is what containerd expects.
  mkdirSync(join(hosts, host), { recursive: true });
  const lines = [
    `server = "https://${host}"`,
    `[host."https://${host}"]`,
    `  ca = "${caPath}"`,
    '  capabilities = ["pull", "resolve"]',
  ];
  writeFileSync(join(hosts, host, 'hosts.toml'), lines.join('\n'));
  return hosts;
}
