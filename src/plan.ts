/** What a pull would fetch, keep and need. */
import type { Platform } from './platform.js';

/** What a pull would do, at the moment it was asked: other programs pull and prune meanwhile. */
export interface PullPlan {
  /** Canonical reference. */
  reference: string;
  /** Platform of the manifest. */
  platform: Platform;
  /** Digest of the platform's manifest, of the bytes as served. */
  manifestDigest: string;
  /** Digest of the index the manifest was chosen from. */
  indexDigest?: string;
  /** Digest of the image config. */
  configDigest: string;
  /** True if the pull would be answered from the cache, without asking the registry. */
  cached: boolean;
  /** The layers, bottom first, as often as the manifest lists them. */
  layers: PlannedLayer[];
  /** Compressed bytes to download, each layer once. */
  downloadBytes: number;
  /**
   * Bytes that will be needed on the disk, as far as can be guessed before anything is unpacked: what is to be downloaded,
   * and for each tree to be made three times the compressed length of its layer, or the length of a plain archive.
   */
  diskBytes: number;
  /**
   * Bytes without which the pull can't succeed: what is to be downloaded, and for each tree to be made the compressed length
   * of its layer. With fewer free bytes a pull fails with `ERR_NO_SPACE` before it downloads anything (`checkSpace`).
   */
  leastDiskBytes: number;
  /** Bytes that are free where the cache is; `null` where the file system does not tell. */
  freeBytes: number | null;
}

/** A layer of a {@link PullPlan}. */
export interface PlannedLayer {
  /** Digest of the compressed layer. */
  digest: string;
  /** Digest of the uncompressed layer; empty where it is not known. */
  diffId: string;
  /** Media type; `null` where the Rust crate pulled the image and did not write it down. */
  mediaType: string | null;
  /** Compressed length in bytes; `null` as above. */
  size: number | null;
  /**
   * What the cache has of it: its tree, so that nothing is to be done (`cached`), its blob, which would be extracted
   * (`downloaded`), the first bytes of the blob (`partial`), or nothing that would be used (`missing`).
   */
  state: 'cached' | 'downloaded' | 'partial' | 'missing';
  /** Compressed bytes that would be downloaded. */
  downloadBytes: number;
}
