/**
 * What the public types promise, checked by the compiler alone: this file is never run. It is compiled against the
 * installed package, with the strictest settings and without `skipLibCheck`, as a user's program would be.
 */
import * as face from 'microsandbox-image';
import {
  type CachedImageMetadata,
  Digest,
  GlobalCache,
  hostPlatform,
  ImageError,
  type ImageErrorCode,
  LayerIndex,
  parsePlatform,
  type Platform,
  plan,
  pull,
  type Pull,
  type PullPlan,
  type PullProgress,
  type PullResult,
  readStat,
  Reference,
  Registry,
  type RegistryAuth,
  type ResolvedImage,
} from 'microsandbox-image';
import { startRegistry, type TestRegistry } from 'microsandbox-image/testing';

type Same<A, B> = [A, B] extends [B, A] ? true : false;
declare function same<A, B>(proof: Same<A, B>): void;
declare const text: string;
declare const signal: AbortSignal;

// A pull is a promise of the result and an async iterable of its events.
const pulling = pull(text, { cache: text, signal });
same<typeof pulling, Pull>(true);
export const result: Promise<PullResult> = pulling;
export async function events(): Promise<PullResult> {
  for await (const event of pulling) describe(event);
  return await pulling;
}

// A plan takes the options of the pull it is of.
export const planned: Promise<PullPlan> = plan(text, { cache: text, policy: 'always', keepBlobs: false, signal });
export const fits = ({ freeBytes, leastDiskBytes }: PullPlan): boolean =>
  freeBytes === null || freeBytes >= leastDiskBytes;

// Events are told apart by `type`, and no type is forgotten by who lists them all.
export function describe(event: PullProgress): string {
  switch (event.type) {
    case 'resolving':
    case 'resolved':
    case 'complete':
      return event.reference;
    case 'layer-download-progress':
    case 'layer-download-complete':
      return `${event.digest} ${event.downloadedBytes}`;
    case 'layer-extract-started':
    case 'layer-extract-complete':
      return event.diffId;
    case 'layer-extract-progress':
      return `${event.bytesRead} of ${event.totalBytes}`;
    case 'layer-index-started':
    case 'layer-index-complete':
      return `${event.layerIndex}`;
    case 'lock-waiting':
      return `${event.path} ${event.holder ?? ''}`;
    case 'retrying':
      return `${event.host} ${event.attempt} ${event.delay} ${event.reason}`;
    default:
      return unreachable(event);
  }
}
declare function unreachable(value: never): never;

// The client.
const registry = new Registry({
  cache: new GlobalCache(),
  platform: { os: 'linux', architecture: 'arm64', variant: 'v8' },
  auth: (host) => Promise.resolve(host === 'ghcr.io' ? { token: 't' } : null),
  credentials: '/etc/docker/config.json',
  insecure: ['registry.local:5000'],
  caCertificates: [Buffer.from(''), ''],
  mirrors: { 'docker.io': ['http://127.0.0.1:5000'] },
  proxy: null,
  connectTimeout: 1,
  stallTimeout: 1,
  lockTimeout: null,
  retries: 0,
  concurrency: 1,
  limits: { layerBytes: null, entries: 5 },
});
same<ReturnType<Registry['pullCached']>, PullResult | null>(true);
same<Awaited<ReturnType<Registry['resolve']>>, ResolvedImage>(true);
same<Registry['cache'], GlobalCache>(true);
same<Registry['platform'], Platform>(true);
registry.pull(Reference.parse(text), { policy: 'always', force: true, index: false, verifyBeforeExtract: true });
export const logins: RegistryAuth[] = ['anonymous', { username: '', password: '' }, { token: '' }];

// Wrong options do not compile.
// @ts-expect-error progress is the pull itself
registry.pull(text, { onProgress: () => undefined });
// @ts-expect-error no such policy
registry.pull(text, { policy: 'sometimes' });
// @ts-expect-error a password needs a name
export const halfLogin: RegistryAuth = { password: '' };
// @ts-expect-error a reference is parsed, not made
new Reference(text);
// @ts-expect-error no such option
new Registry({ cacheDir: text });
// @ts-expect-error results are not written to
registry.cache = new GlobalCache();

// Values.
same<ReturnType<typeof Reference.parse>, Reference>(true);
same<ReturnType<typeof Digest.parse>['hex'], string>(true);
same<ReturnType<typeof parsePlatform>, Platform>(true);
same<ReturnType<typeof hostPlatform>, Platform>(true);
same<ReturnType<typeof readStat>, { uid: number; gid: number; mode: number; rdev: number } | null>(true);
same<ReturnType<GlobalCache['readImageMetadata']>, CachedImageMetadata | null>(true);
same<ReturnType<LayerIndex['hardLinks']>, string[]>(true);
export const inode: bigint | undefined = LayerIndex.open(text).lookup(text)?.inode;

// Errors.
declare const error: unknown;
if (error instanceof ImageError) {
  same<typeof error.code, ImageErrorCode>(true);
  same<typeof error.reference, string | undefined>(true);
}
// @ts-expect-error codes are listed
export const code: ImageErrorCode = 'ERR_WHATEVER';

// The registry for tests.
export async function offline(): Promise<TestRegistry> {
  const server = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'a', content: 'b' }]] } } });
  same<typeof server.host, string>(true);
  return server;
}

// Names of the package's inside do not leak.
// @ts-expect-error none of these is public
export const leaked = [face.native, face.unwrap, face.toImageError];
