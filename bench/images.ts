/** The images that are pulled: real trees, served over TLS by a real registry on loopback. */
import { mkdtempSync, rmSync } from 'node:fs';
import { get } from 'node:https';
import { join } from 'node:path';
import { tar, type TarEntry } from 'microsandbox-image/testing';
import { makeCertificates } from '../test/support/certificates.js';
import { debianRoot, nodeModules } from '../test/support/corpora.js';
import { addToLayout, type LayerFile } from '../test/support/oci-layout.js';
import { startRealRegistry } from '../test/support/real-registry.js';
import type { Target } from './arms/arm.js';

export interface BenchImage extends Target {
  name: string;
  title: string;
  compressed: number;
  uncompressed: number;
  /** Entries of all layers. */
  entries: number;
}

export interface Served {
  images: BenchImage[];
  stop(): Promise<void>;
}

const MAKERS: Record<string, { title: string; layers: () => Promise<LayerFile[]> | LayerFile[] }> = {
  debian: { title: 'Debian root', layers: async () => [await debianRoot()] },
  modules: { title: 'node_modules', layers: async () => [await nodeModules()] },
  small: { title: 'small', layers: () => [{ tar: smallTree() }] },
};

/** Makes the named images, starts the registry and pushes them. */
export async function serveImages(names: string[], scratch: string): Promise<Served> {
  for (const name of names) {
    if (!(name in MAKERS)) throw new Error(`there is no image ${name}: ${Object.keys(MAKERS).join(', ')}`);
  }
  const directory = mkdtempSync(join(scratch, 'bench-registry-'));
  const certificates = makeCertificates();
  const tls = { certPath: certificates.certPath, keyPath: certificates.keyPath };
  const server = await startRealRegistry({ directory: join(directory, 'registry'), tls });
  const atExit = (): void => {
    void server.kill();
    certificates.remove();
    rmSync(directory, { recursive: true, force: true });
  };
  process.once('exit', atExit);
  const images: BenchImage[] = [];
  for (const name of names) {
    const maker = MAKERS[name];
    if (maker === undefined) continue;
    const layers = await maker.layers();
    const layout = join(directory, `layout-${name}`);
    addToLayout(layout, name, layers);
    await server.push(layout, name, `bench/${name}:1`);
    rmSync(layout, { recursive: true });
    const manifest = await fetchManifest(server.host, `bench/${name}`, certificates.ca);
    images.push({
      name,
      title: maker.title,
      reference: `${server.host}/bench/${name}:1`,
      blobs: manifest.layers.map(({ digest }) => `${server.url}/v2/bench/${name}/blobs/${digest}`),
      caPath: certificates.caPath,
      compressed: manifest.layers.reduce((sum, { size }) => sum + size, 0),
      uncompressed: layers.reduce((sum, layer) => sum + layer.tar.length, 0),
      entries: layers.reduce((sum, layer) => sum + countEntries(layer.tar), 0),
    });
  }
  const stop = async (): Promise<void> => {
    process.off('exit', atExit);
    await server.stop();
    certificates.remove();
    rmSync(directory, { recursive: true, force: true });
  };
  return { images, stop };
}

/** Three thousand small files and four large ones. */
function smallTree(): Buffer {
  const entries: TarEntry[] = [];
  for (let directory = 0; directory < 100; directory++) {
    entries.push({ path: `tree/${directory}`, type: 'directory' });
    for (let file = 0; file < 30; file++) {
      const line = `line ${directory} ${file} ${(directory * 7919 + file * 104729) % 65536}\n`;
      entries.push({ path: `tree/${directory}/file-${file}.txt`, content: line.repeat(20 + file * 10) });
    }
  }
  for (let file = 0; file < 4; file++)
    entries.push({ path: `large-${file}`, content: `${file} of four\n`.repeat(500_000) });
  return tar(entries);
}

/** Entries of an archive; headers that only describe the next entry aren't counted. */
function countEntries(archive: Buffer): number {
  let count = 0;
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0;) {
    const type = String.fromCharCode(archive[at + 156] ?? 0);
    if (!'xgLK'.includes(type)) count++;
    const field = archive
      .subarray(at + 124, at + 136)
      .toString('latin1')
      .replaceAll('\0', ' ');
    at += 512 + Math.ceil(parseInt(field, 8) / 512) * 512;
  }
  return count;
}

function fetchManifest(
  host: string,
  name: string,
  ca: string,
): Promise<{ layers: { digest: string; size: number }[] }> {
  const headers = { accept: 'application/vnd.oci.image.manifest.v1+json' };
  return new Promise((resolve, reject) => {
    get(`https://${host}/v2/${name}/manifests/1`, { ca, headers }, (response) => {
      let text = '';
      response.on('data', (data: Buffer) => (text += data.toString()));
      response.on('end', () => {
        resolve(JSON.parse(text) as { layers: { digest: string; size: number }[] });
      });
    }).on('error', reject);
  });
}
