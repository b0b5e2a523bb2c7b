/** What is in a cache, what may go from it, and whether it is whole: the words of `GlobalCache`'s housekeeping. */
import { wrongType } from './errors.js';
import { checkBoolean, checkCount, checkObject, lockTimeout } from './options.js';
import type { Platform } from './platform.js';
import { type Reference, referenceText } from './reference.js';
import { checkSignal } from './signal.js';

/** An image of the cache. */
export interface CachedImage {
  /** Canonical reference; `null` where the Rust crate pulled it, which does not write it down. */
  reference: string | null;
  /** Name of its metadata file without `.json`. */
  key: string;
  /** Platform of the manifest; `null` where the Rust crate pulled it. */
  platform: Platform | null;
  /** Digest of the platform's manifest. */
  manifestDigest: string;
  /** Digests of its layers, bottom first. */
  layerDigests: string[];
  /** Length of its blobs in bytes, each layer once; `null` where the metadata lack it. */
  compressedBytes: number | null;
  /** When it was pulled, in milliseconds since 1970; `null` where the Rust crate pulled it. */
  pulledAt: number | null;
  /** When it was last used, in milliseconds since 1970, to the hour. */
  lastUsedAt: number;
  /** True if all its layers are there, so that it is a hit. */
  complete: boolean;
}

/** Allocated bytes on the disk. What images share counts once, and so does a file with several names. */
export interface Usage {
  /** All of it: the sum of the seven parts that follow. */
  bytes: number;
  /** Compressed blobs. */
  blobBytes: number;
  /** Finished trees. */
  treeBytes: number;
  /** Sidecar indexes and lists of what depends on lower layers. */
  indexBytes: number;
  /** Unfinished downloads. */
  partialBytes: number;
  /** What crashes left, and what is being made or removed right now. */
  leftoverBytes: number;
  /** Metadata of images, and locks. */
  metadataBytes: number;
  /** Files that are none of the cache's own; they are never touched. */
  foreignBytes: number;
  /** What belongs to layers that no image names: contained in the parts above. */
  unreferencedBytes: number;
  /** Number of images. */
  images: number;
  /** Number of finished trees. */
  layers: number;
}

/** Something that went from the cache, or stayed although it should have gone. */
export interface RemovedItem {
  /** What it is; a layer is all that it has, a blob is that of a layer that stays. */
  kind: 'image' | 'layer' | 'tree' | 'blob' | 'partial' | 'leftover';
  /** Reference (or key) of an image, digest of a layer, blob or partial download, file name of a leftover. */
  name: string;
  /** Allocated bytes. */
  bytes: number;
  /**
   * Why it went: `requested` by name, `unused` for longer than `olderThan`, `beyond-keep`, `over-budget` of `maxBytes`,
   * `damaged` metadata, `unreferenced` by any image, `extracted` so that its blob is not needed, `abandoned` by whoever
   * made it. Or why it stayed: `locked` by a process at work on it, `leased`, or a `pull-under-way` that does not say
   * which layers it needs.
   */
  reason:
    | 'requested'
    | 'unused'
    | 'beyond-keep'
    | 'over-budget'
    | 'damaged'
    | 'unreferenced'
    | 'extracted'
    | 'abandoned'
    | 'locked'
    | 'leased'
    | 'pull-under-way';
}

/** What came of `remove()`. */
export interface RemoveReport {
  /** True if the reference was there. */
  found: boolean;
  /** What went. */
  removed: RemovedItem[];
  /** What stayed because it is in use. */
  kept: RemovedItem[];
  /** Allocated bytes of what went. */
  freedBytes: number;
}

/** How a method that may have to wait for another process is stopped. */
export interface WaitOptions {
  /** Stops it within a quarter of a second; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Milliseconds to wait for a lock that another process holds, then `ERR_LOCK_TIMEOUT`; `null` is for ever. Default 600,000. */
  lockTimeout?: number | null;
}

/** What may go. Without options no image does: only layers no image names, abandoned downloads and leftovers. */
export interface PruneOptions extends WaitOptions {
  /**
   * A number: so many of the images used last stay, all others go. A list: these images stay, whatever else is said.
   * Default: no image goes for its rank, none is exempt.
   */
  keep?: number | (string | Reference)[];
  /** Images last used longer ago than so many milliseconds go. Last use is known to the hour. Default: none. */
  olderThan?: number;
  /** The images least recently used go until the cache has no more allocated bytes than this. Default: no bound. */
  maxBytes?: number;
  /** Unfinished downloads: `true` all go, `false` none; default: those untouched for a week. */
  partials?: boolean;
  /** Blobs of layers whose tree is there go; a repair then has to download them again. Default false. */
  blobs?: boolean;
  /** Only tell what would go. Default false. */
  dryRun?: boolean;
}

/** What came of `prune()`. */
export interface PruneReport {
  /** True if nothing was removed and `removed` says what would be. */
  dryRun: boolean;
  /** What went: images first, the one least recently used first. */
  removed: RemovedItem[];
  /** What should have gone and stayed because it is in use. */
  kept: RemovedItem[];
  /** Allocated bytes of what went. */
  freedBytes: number;
  /** Allocated bytes of what is left. */
  remainingBytes: number;
}

/** How a cache is looked through. */
export interface VerifyOptions {
  /**
   * `'marker'`: metadata agree with themselves, trees and their markers are there. `'size'` (default): also every file of
   * every tree, in the length the index says, and the length of blobs. `'content'`: also the digests of blobs, and every
   * tree byte by byte against what its blob unpacks to.
   */
  depth?: 'marker' | 'size' | 'content';
  /**
   * Mend what is wrong: a layer is extracted again from its blob where the blob is right; where not, it is removed with
   * the metadata that name it, and the next pull brings it in. Default false.
   */
  repair?: boolean;
  /** Stops it; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Something that is wrong in a cache. */
export interface Problem {
  /** What is wrong. */
  kind:
    | 'damaged-metadata'
    | 'wrong-metadata'
    | 'missing-layer'
    | 'foreign-tree'
    | 'missing-marker'
    | 'orphan-index'
    | 'damaged-index'
    | 'damaged-list'
    | 'damaged-blob'
    | 'missing-file'
    | 'wrong-file'
    | 'extra-file';
  /** Where: an absolute path. */
  path: string;
  /** Digest of the layer it belongs to. */
  layer?: string;
  /** The images that need it, by reference or key. */
  images: string[];
  /** What was expected and what is there, in words. */
  detail: string;
  /** What was done: the layer was `extracted` anew, what was damaged was `deleted`, or (`null`) nothing. */
  repaired: 'extracted' | 'deleted' | null;
}

/** What `verify()` found. Of one tree at most 16 differences are told. */
export interface VerifyReport {
  /** How thorough it was. */
  depth: 'marker' | 'size' | 'content';
  /** True if nothing is wrong, or nothing any more. */
  ok: boolean;
  /** Images looked at. */
  images: number;
  /** Layers looked at. */
  layers: number;
  /** What is wrong, or was. */
  problems: Problem[];
  /** Layers that could not be looked at as thoroughly: no problem by itself. */
  skipped: {
    layer: string;
    reason: 'locked' | 'no-blob' | 'no-index' | 'foreign-index' | 'made-by-original' | 'read-only';
  }[];
}

/** Layers that stay in the cache, whatever is pruned from whatever process, until it is released or this process ends. */
export interface Lease {
  /** Gives the layers back. Safe to call twice. */
  release(): void;
}

/** @internal The options of a wait as the addon takes them. */
export function waitText(options: WaitOptions): string {
  return JSON.stringify(waitFields(options));
}

function waitFields(options: WaitOptions): { lockTimeout?: number | null } {
  checkObject(options, 'options');
  checkSignal(options.signal);
  return lockTimeout(options);
}

/** @internal The options of a prune as the addon takes them. */
export function pruneText(options: PruneOptions): string {
  checkObject(options, 'options');
  const { keep } = options;
  const list = Array.isArray(keep) ? keep.map((reference) => referenceText(reference)) : [];
  return JSON.stringify({
    keep: Array.isArray(keep) ? undefined : checkCount(keep, 'options.keep', 0),
    keepReferences: list,
    olderThan: checkCount(options.olderThan, 'options.olderThan', 0),
    maxBytes: checkCount(options.maxBytes, 'options.maxBytes', 0),
    partials: checkBoolean(options.partials, 'options.partials'),
    blobs: checkBoolean(options.blobs, 'options.blobs'),
    dryRun: checkBoolean(options.dryRun, 'options.dryRun'),
    ...waitFields(options),
  });
}

/** @internal The options of a verification as the addon takes them. */
export function verifyText(options: VerifyOptions): string {
  checkObject(options, 'options');
  const { depth = 'size', signal } = options;
  if (!['marker', 'size', 'content'].includes(depth)) {
    throw wrongType('options.depth', "one of 'marker', 'size', 'content'", depth);
  }
  checkSignal(signal);
  return JSON.stringify({ depth, repair: checkBoolean(options.repair, 'options.repair') ?? false });
}
