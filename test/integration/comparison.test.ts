/**
 * What every program does with the same bad luck: the table in docs/comparison.md says what is seen here, for the versions
 * it names. A program in another version is only reported; ours must do what the table says in any.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type Fault, image, layer, startRegistry } from 'microsandbox-image/testing';
import { arms } from '../../bench/arms/index.js';
import { type Certificates, makeCertificates, whyNoCertificates } from '../support/certificates.js';
import { ROOT } from '../support/installed.js';
import { has, requirePrograms } from '../support/programs.js';
import { scratch } from '../support/scratch.js';

const PROGRAMS = ['ours', 'original', 'crane', 'skopeo', 'podman', 'ctr'];
const LENGTH = 1_000_000;
// Not compressed: no checksum but the digest tells a flipped bit.
const content = layer({ entries: [{ path: 'noise', content: randomBytes(LENGTH) }], compression: 'none' });

/** What happens, and which image it happens to. */
const LUCK: Record<string, { faults: Fault[]; config?: Record<string, unknown> }> = {
  'no fault': { faults: [] },
  'a flipped bit in a layer': { faults: [{ on: 'blob', digest: content.digest, do: 'wrong-bytes' }] },
  "a layer that isn't the config's": {
    faults: [],
    config: { rootfs: { type: 'layers', diff_ids: [`sha256:${'5'.repeat(64)}`] } },
  },
  'a connection cut in a layer': {
    faults: [{ on: 'blob', digest: content.digest, do: 'cut', after: LENGTH / 2, times: 1 }],
  },
};

/** The rows of the table, by the program's version; what stands behind it are the cells. */
function documented(): Map<string, string[]> {
  const text = readFileSync(join(ROOT, 'docs/comparison.md'), 'utf8');
  const head = `| program | ${Object.keys(LUCK).join(' | ')} |`;
  const lines = text.split('\n').map((line) => line.replace(/\s+/g, ' '));
  const from = lines.indexOf(head);
  assert.ok(from >= 0, `the table begins with ${head}`);
  const rows = lines.slice(from + 2, from + 2 + PROGRAMS.length);
  return new Map(
    rows.map((row) => {
      const [name = '', ...cells] = row.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, '').trim());
      return [name, cells];
    }),
  );
}

/** Podman leaves its store mounted on itself. */
function unmountBelow(directory: string): void {
  const places = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((path) => path.startsWith(`${directory}/`));
  for (const place of places.sort().reverse()) spawnSync('umount', ['-l', place]);
}

const skip =
  whyNoCertificates() ?? (process.getuid?.() === 0 ? false : 'containerd and podman are started as root here');

describe('beside other programs', { skip }, () => {
  const base = scratch('comparison');
  let certificates: Certificates;
  before(() => {
    certificates = makeCertificates();
  });
  after(() => {
    certificates.remove();
  });

  /** Pulls once, and says in a word what came of it. */
  async function seen(name: string, luck: string): Promise<string> {
    const arm = arms.find((each) => each.name === name);
    const what = LUCK[luck];
    assert.ok(arm !== undefined && what !== undefined);
    const registry = await startRegistry({
      tls: { key: certificates.key, cert: certificates.cert },
      images: { 'app:1': image({ layers: [content], configFields: what.config ?? {} }) },
      faults: what.faults,
    });
    const directory = join(base, `${name}-${Object.keys(LUCK).indexOf(luck)}`);
    mkdirSync(directory);
    try {
      const target = { reference: registry.reference('app:1'), blobs: [], caPath: certificates.caPath };
      const failed = await arm.pull(target, directory).then(
        () => false,
        () => true,
      );
      if (what.faults[0]?.do !== 'cut') return failed ? 'refused' : 'taken';
      if (failed) return 'fails';
      const ranges = registry.requests.some(({ headers }) => /^bytes=[1-9]/.test(headers.range ?? ''));
      return ranges ? 'goes on from there' : 'starts the layer anew';
    } finally {
      await registry.close();
      unmountBelow(directory);
    }
  }

  for (const name of PROGRAMS) {
    it(`${name} does what the table says`, { timeout: 240_000 }, async (t) => {
      const arm = arms.find((each) => each.name === name);
      assert.ok(arm !== undefined);
      if (name === 'crane' && !has('crane')) {
        // It comes from Go's module proxy, so only where Go is.
        t.skip('not installed: crane');
        return;
      }
      if (!requirePrograms(t, ...arm.needs)) return;
      const version = name === 'ours' ? 'microsandbox-image' : await arm.version();
      const words: string[] = [];
      for (const luck of Object.keys(LUCK)) words.push(await seen(name, luck));
      const row = documented().get(version);
      t.diagnostic(`${version}: ${words.join(', ')}`);
      if (row === undefined && name !== 'ours') t.diagnostic(`the table knows no ${version}`);
      else assert.deepEqual(words, row);
    });
  }
});
