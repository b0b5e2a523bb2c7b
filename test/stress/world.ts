/** The registry and its images, which share layers in different orders, and the cache that all processes use. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { layer, startRegistry, type TarEntry, type TestRegistry } from 'microsandbox-image/testing';
import { type Certificates, makeCertificates } from '../support/certificates.js';
import { generator } from './schedule.js';

const ORIGINAL = join(__dirname, '..', 'original', 'target', 'release', 'original');

export interface World {
  server: TestRegistry;
  certificates: Certificates;
  /** Names of the images. */
  images: string[];
  directory: string;
  cache: string;
  /** The program on the original crate; null where it is not built. */
  original: string | null;
  end(): Promise<void>;
}

export async function makeWorld(): Promise<World> {
  const random = generator(7);
  const letters = ['a', 'b', 'c', 'd', 'e', 'f'];
  const layers = new Map(letters.map((name, at) => [name, layer(entries(name, 10 + 12 * at, random))]));
  const words = ['abcdef', 'fedcba', 'ace', 'eca', 'bdf', 'fa', 'd'];
  const images = Object.fromEntries(
    words.map((word) => [`${word}:1`, { layers: word.split('').map((name) => layers.get(name)!) }]),
  );
  const certificates = makeCertificates();
  const server = await startRegistry({ images, tls: { key: certificates.key, cert: certificates.cert } });
  // So that a process lives long enough to be killed in the middle.
  server.faults.add({ on: 'blob', do: 'slow', bytesPerSecond: 1_500_000 });
  const directory = mkdtempSync(join(tmpdir(), 'stress-'));
  const end = async (): Promise<void> => {
    await server.close();
    certificates.remove();
    rmSync(directory, { recursive: true, force: true });
  };
  const original = existsSync(ORIGINAL) ? ORIGINAL : null;
  return {
    server,
    certificates,
    images: Object.keys(images),
    directory,
    cache: join(directory, 'cache'),
    original,
    end,
  };
}

/** Files that do not compress, and all else that a tree can have. */
function entries(name: string, files: number, random: () => number): TarEntry[] {
  const content = () => Buffer.from(Array.from({ length: 4000 }, () => Math.floor(random() * 256)));
  // So that a layer above these two inherits other owners in each image.
  const owners = new Map([
    ['a', 5],
    ['f', 9],
  ]).get(name);
  const etc: TarEntry[] = owners === undefined ? [] : [{ path: 'etc', type: 'directory', mode: 0o755, uid: owners }];
  return [
    ...etc,
    { path: `etc/${name}`, type: 'directory', mode: 0o750, uid: 3 },
    { path: `etc/${name}/link`, type: 'symlink', linkTarget: '/etc' },
    { path: 'etc/same', content: name },
    { path: `etc/${name}/null`, type: 'character', major: 1, minor: 3, mode: 0o666 },
    ...Array.from({ length: files }, (_, at) => ({ path: `opt/${name}/deep/${at % 3}/${at}`, content: content() })),
    { path: `opt/${name}/again`, type: 'hardlink', linkTarget: `opt/${name}/deep/0/0` },
  ];
}
