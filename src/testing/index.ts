/**
 * `microsandbox-image/testing`: an image registry inside your test process, and a builder of small images for it.
 *
 * ```ts
 * import { startRegistry } from 'microsandbox-image/testing';
 *
 * const registry = await startRegistry({
 *   images: { 'app:1': { layers: [[{ path: 'etc/motd', content: 'hello' }]] } },
 *   faults: [{ on: 'blob', do: 'cut', after: 100, times: 1 }],
 * });
 * // … pull registry.reference('app:1'), look at registry.requests …
 * await registry.close();
 * ```
 *
 * Everything runs on Node's own modules, on loopback, in memory.
 */
export { canPackZstd, type Compression } from './compression.js';
export { digestOf, type Content, type DigestAlgorithm } from './digest.js';
export type { Fault, FaultAction, FaultMatch, Faults, ActiveFault } from './faults.js';
export {
  descriptor,
  image,
  rawManifest,
  type BuiltImage,
  type ImageSpec,
  type RawManifest,
  type RawManifestOptions,
} from './image.js';
export { index, type BuiltIndex, type IndexEntrySpec, type IndexOptions } from './image-index.js';
export { layer, type BuiltLayer, type LayerOptions, type LayerSpec, type MediaTypes } from './layer.js';
export type { Connections, ListenerOptions, TlsOptions } from './listener.js';
export type { PlatformFields, PlatformSpec } from './platform.js';
export type { AuthOptions, BasicAuth, BearerAuth, ChallengeParts, ChallengeWriter } from './auth.js';
export { startRegistry, type Pushed, type RegistryOptions, type TestRegistry } from './registry.js';
export type { LoggedRequest, SentAuthorization } from './request-log.js';
export type { RequestKind } from './routes.js';
export type { Built, Publishable } from './store.js';
export { tar, type TarEntry, type TarEntryType, type TarOptions } from './tar.js';
