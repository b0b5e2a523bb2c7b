/** What the cache writes down of a pulled image, as programs see it. */
import type { Platform } from './platform.js';
import type { ImageConfig, LayerReport } from './pull.js';

/** What the cache remembers of a pulled image. Files the Rust crate wrote lack what is optional here. */
export interface CachedImageMetadata {
  /** Digest of the platform's manifest, as served. */
  manifestDigest: string;
  /** Digest of the image config. */
  configDigest: string;
  /** What a container runs. */
  config: ImageConfig;
  /** The layers, bottom first. */
  layers: CachedLayerMetadata[];
  /** Canonical reference. */
  reference?: string;
  /** Platform of the manifest. */
  platform?: Platform;
  /** Digest of the index it was chosen from. */
  indexDigest?: string;
  /** Media type of the manifest. */
  manifestMediaType?: string;
  /** The manifest as served. */
  rawManifest?: string;
  /** The image config as served. */
  rawConfig?: string;
  /** When it was pulled, in milliseconds since 1970. */
  pulledAt?: number;
  /** What could not be kept as it came, by layer digest. */
  report: Record<string, LayerReport>;
}

/** What the cache remembers of a layer. */
export interface CachedLayerMetadata {
  /** Digest of the compressed blob. */
  digest: string;
  /** Media type from the manifest. */
  mediaType: string | null;
  /** Length of the blob in bytes. */
  size: number | null;
  /** Digest of the uncompressed layer; empty where it is not known. */
  diffId: string;
  /** Key of the tree that the image has of the layer at this place; absent for the base tree. */
  inherited?: string;
  /** True if that tree has no index. */
  noIndex?: boolean;
}
