/** Another client's opinion: skopeo checks every digest and size of what it copies. */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { image, index, startRegistry } from '../../src/testing/index.js';

const skip = spawnSync('skopeo', ['--version']).status === 0 ? false : 'skopeo is not installed';
const run = promisify(execFile);
const files = [{ path: 'etc/motd', content: 'hello' }];

test('skopeo logs in, inspects, and copies an index with all its images', { skip }, async () => {
  const amd = image({
    layers: [files, { entries: files, compression: 'none' }, { entries: files, compression: 'gzip-multi-member' }],
    platform: 'linux/amd64',
    config: { Env: ['A=1'] },
  });
  const arm = image({ layers: [[]], platform: 'linux/arm64/v8' });
  const registry = await startRegistry({
    images: { 'team/app:1': amd, 'team/many:1': index([{ image: amd }, { image: arm }]) },
    auth: { type: 'bearer', users: { ann: 'pw' } },
  });
  const target = mkdtempSync(join(tmpdir(), 'skopeo-'));
  try {
    const source = (name: string) => `docker://${registry.reference(name)}`;
    const inspect = ['inspect', '--creds', 'ann:pw', '--tls-verify=false', source('team/app:1')];
    const { Digest, Env, Layers } = JSON.parse((await run('skopeo', inspect)).stdout) as Record<string, unknown>;
    assert.deepEqual([Digest, Env, Layers], [amd.digest, ['A=1'], amd.layers.map(({ digest }) => digest)]);
    const copy = ['--insecure-policy', 'copy', '--all', '--src-creds', 'ann:pw', '--src-tls-verify=false'];
    await run('skopeo', [...copy, source('team/many:1'), `dir:${target}`]);
    // A dir: keeps every byte as served; an oci: layout would pack the plain layer.
    const copied = readdirSync(target).map((name) => name.replace('.manifest.json', ''));
    for (const { digest } of [amd, arm, ...amd.layers, ...arm.layers, amd.config]) {
      assert.ok(copied.includes(digest.replace('sha256:', '')), digest);
    }
    await assert.rejects(run('skopeo', ['inspect', '--tls-verify=false', source('team/app:1')]), /unauthorized/);
  } finally {
    await registry.close();
    rmSync(target, { recursive: true, force: true });
  }
});
