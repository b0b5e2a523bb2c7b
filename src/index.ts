/**
 * Pull, verify, extract and cache OCI container images: no daemon, no root.
 *
 * ```ts
 * import { pull } from 'microsandbox-image';
 * const { layers, config } = await pull('alpine:3.20');
 * ```
 */
export { GlobalCache } from './cache.js';
export type { CachedImageMetadata, CachedLayerMetadata } from './metadata.js';
export type { CredentialCallback, RegistryAuth } from './credentials.js';
export { Digest } from './digest.js';
export { ImageError, type ImageErrorCode } from './errors.js';
export { LayerIndex, readStat, type IndexDirectory, type IndexEntry } from './layer-index.js';
export type { Limits, PullOptions, RegistryOptions } from './options.js';
export { hostLinux, hostPlatform, parsePlatform, type Platform } from './platform.js';
export type { PlannedLayer, PullPlan } from './plan.js';
export type { PullProgress } from './progress.js';
export type { ImageConfig, LayerReport, Pull, PullResult } from './pull.js';
export { Reference } from './reference.js';
export { plan, pull, Registry, type ResolvedImage } from './registry.js';
export type {
  CachedImage,
  Lease,
  Problem,
  PruneOptions,
  PruneReport,
  RemovedItem,
  RemoveReport,
  Usage,
  VerifyOptions,
  VerifyReport,
  WaitOptions,
} from './room.js';
