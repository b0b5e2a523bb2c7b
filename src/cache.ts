/** The cache on disk: paths, hits, metadata. Shared at the same time with programs built on the Rust crate. */
import { join } from 'node:path';
import { wrongType } from './errors.js';
import type { CachedImageMetadata } from './metadata.js';
import type { NativeCache } from './native/binding.js';
import { native, unwrap } from './native/index.js';
import { absolute, checkObject, checkOwners, defaultCacheDirectory } from './options.js';
import { type Platform, platformJson } from './platform.js';
import { runTask } from './pull.js';
import { type Reference, referenceText } from './reference.js';
import {
  type CachedImage,
  type Lease,
  type PruneOptions,
  type PruneReport,
  pruneText,
  type RemoveReport,
  type Usage,
  type VerifyOptions,
  type VerifyReport,
  verifyText,
  type WaitOptions,
  waitText,
} from './room.js';

/**
 * One cache directory. Making the value touches nothing: directories are made when something is written, so a read-only
 * cache serves hits.
 *
 * ```text
 * <cache>/layers/<d>.tar.gz            compressed blob, whatever its compression
 * <cache>/layers/<d>.tar.gz.part       unfinished download
 * <cache>/layers/<d>.<lease>.extracting/  unfinished extraction
 * <cache>/layers/<d>.extracted/        finished tree, valid with .complete at its root: the base tree
 * <cache>/layers/<d>.index             sidecar index of the base tree
 * <cache>/layers/<d>.table             what the verified blob says of every entry
 * <cache>/layers/<d>.<inherited>.extracted/  a tree as some images need it, with <d>.<inherited>.index
 * <cache>/layers/<d>.implicit_dirs     directories no entry described
 * <cache>/layers/<d>.lock              held while extracting
 * <cache>/layers/<d>.download.lock     held while downloading
 * <cache>/images/<key>.json            metadata of a pulled reference
 * <cache>/images/<key>.lock            held while that reference is pulled
 * ```
 * `<d>` is the digest with `_` for `:`; `<key>` is the hex sha256 of the canonical reference.
 *
 * All methods that take a digest throw {@link ImageError} `ERR_INVALID_DIGEST` for what is none.
 */
export class GlobalCache {
  /** The directory, absolute. */
  readonly directory: string;
  /** Users, by id, whose files are believed beside root's and one's own. */
  readonly trustedOwners: readonly number[];
  readonly #native: NativeCache;

  /**
   * @param directory Default: `~/.microsandbox/cache`. A link in its place is not followed.
   * @param options `trustedOwners`: see {@link RegistryOptions}.
   */
  constructor(directory: string = defaultCacheDirectory(), options: { trustedOwners?: number[] } = {}) {
    checkObject(options, 'options');
    this.directory = absolute(directory, 'directory');
    const owners = checkOwners(options.trustedOwners, 'options.trustedOwners');
    this.trustedOwners = Object.freeze(owners);
    this.#native = new (native().NativeCache)(this.directory, owners);
  }

  /** Where layers are: `<cache>/layers`. */
  get layersDir(): string {
    return join(this.directory, 'layers');
  }

  /** `<cache>/layers/<d>.tar.gz`: the compressed blob, whatever its compression; there unless it was pruned. */
  layerBlobPath(digest: string): string {
    return this.#layer(digest, 'blob');
  }

  /** `<cache>/layers/<d>.tar.gz.part`: an unfinished download, which the next pull goes on with. */
  layerPartPath(digest: string): string {
    return this.#layer(digest, 'part');
  }

  /**
   * `<cache>/layers/<d>.extracted`: the base tree. What a pull answers in `layers`, but for layers that inherit something else
   * from those below them.
   */
  layerDir(digest: string): string {
    return this.#layer(digest, 'tree');
  }

  /** `<cache>/layers/<d>.extracting`: an unfinished extraction of the Rust crate. Pulls have names of their own for theirs. */
  layerExtractingDir(digest: string): string {
    return this.#layer(digest, 'extracting');
  }

  /** `<cache>/layers/<d>.index`: the sidecar index of the base tree, for {@link LayerIndex.open}; may be missing. */
  layerIndexPath(digest: string): string {
    return this.#layer(digest, 'index');
  }

  /** `<cache>/layers/<d>.implicit_dirs`: the list of directories that no entry of the layer described. */
  layerImplicitDirsPath(digest: string): string {
    return this.#layer(digest, 'implicit-dirs');
  }

  /** `<cache>/layers/<d>.lock`: locked by `flock` while the layer is extracted. */
  layerLockPath(digest: string): string {
    return this.#layer(digest, 'lock');
  }

  /** `<cache>/layers/<d>.download.lock`: locked by `flock` while the layer is downloaded. */
  layerDownloadLockPath(digest: string): string {
    return this.#layer(digest, 'download-lock');
  }

  /** `<cache>/images/<key>.json`: the metadata of a reference. For the default platform it is the file the Rust crate uses. */
  imageMetadataPath(reference: string | Reference, platform?: Platform | string): string {
    return unwrap(this.#native.imagePath(referenceText(reference), platformJson(platform, 'platform'), false));
  }

  /** `<cache>/images/<key>.lock`: locked by `flock` while a reference is pulled. */
  imageLockPath(reference: string | Reference, platform?: Platform | string): string {
    return unwrap(this.#native.imagePath(referenceText(reference), platformJson(platform, 'platform'), true));
  }

  /** True if the layer's base tree is there and whole. */
  isExtracted(digest: string): boolean {
    return this.allLayersExtracted([digest]);
  }

  /** True if all these layers' base trees are there and whole. */
  allLayersExtracted(digests: string[]): boolean {
    checkDigests(digests);
    return unwrap(this.#native.allExtracted(digests));
  }

  /** A reference's metadata; `null` if there are none or they are damaged. */
  readImageMetadata(reference: string | Reference, platform?: Platform | string): CachedImageMetadata | null {
    return unwrap(this.#native.readMetadata(referenceText(reference), platformJson(platform, 'platform')));
  }

  /**
   * Writes a reference's metadata, beside and then renamed, so that it is a hit as soon as its layers are there. For programs
   * that fill a cache by other means; a pull does it by itself.
   */
  async writeImageMetadata(
    reference: string | Reference,
    metadata: CachedImageMetadata,
    platform?: Platform | string,
  ): Promise<void> {
    if (typeof metadata !== 'object' || (metadata as unknown) === null)
      throw wrongType('metadata', 'of type object', metadata);
    const [text, json] = [referenceText(reference), platformJson(platform, 'platform')];
    unwrap(await this.#native.writeMetadata(text, json, JSON.stringify(metadata)));
  }

  /** Forgets a reference; its layers stay. Says whether it was there. */
  async deleteImageMetadata(reference: string | Reference, platform?: Platform | string): Promise<boolean> {
    return unwrap(await this.#native.deleteMetadata(referenceText(reference), platformJson(platform, 'platform')));
  }

  /**
   * The images, those used last first. Damaged metadata are left out: {@link verify} tells of them.
   *
   * @throws {@link ImageError} `ERR_IO` if the directory can't be read, `ERR_CACHE` if a link was planted in it; so do all
   * methods from here on.
   */
  async images(): Promise<CachedImage[]> {
    return unwrap(await this.#native.images());
  }

  /** How much room the cache takes and what for, in allocated bytes. Takes no lock and changes nothing. */
  async usage(): Promise<Usage> {
    return unwrap(await this.#native.usage());
  }

  /**
   * Forgets a reference, for all its platforms, and removes the layers no other image names. What a process is at work on
   * or holds a lease of stays and is told in `kept`.
   *
   * @throws {@link ImageError} `ERR_INVALID_REFERENCE`; `ERR_LOCK_TIMEOUT` if another process is at the same for longer
   * than `lockTimeout`.
   */
  async remove(reference: string | Reference, options: WaitOptions = {}): Promise<RemoveReport> {
    const [text, wait] = [referenceText(reference), waitText(options)];
    return runTask<RemoveReport>(() => this.#native.remove(text, wait), options.signal, undefined).result;
  }

  /**
   * Makes room, without harm to other processes at work in the same cache, and tells what went and why.
   *
   * ```ts
   * await cache.prune({ olderThan: 30 * 24 * 3_600_000, maxBytes: 20 * 2 ** 30 });
   * ```
   * @throws {@link ImageError} `ERR_INVALID_REFERENCE` in `keep`; `ERR_LOCK_TIMEOUT` as in {@link remove}.
   */
  async prune(options: PruneOptions = {}): Promise<PruneReport> {
    const text = pruneText(options);
    return runTask<PruneReport>(() => this.#native.prune(text), options.signal, undefined).result;
  }

  /**
   * Looks for damage and, with `repair`, mends it. Images that are whole stay usable meanwhile; layers that a process is at
   * work on are skipped. Damage is told in the report, it is no error.
   */
  async verify(options: VerifyOptions = {}): Promise<VerifyReport> {
    const text = verifyText(options);
    return runTask<VerifyReport>(() => this.#native.verify(text), options.signal, undefined).result;
  }

  /**
   * Keeps layers from being pruned, by any process, until the lease is released or this process ends, however it ends.
   * Take one while you use what a pull answered: `cache.lease(result.layerDigests)`.
   *
   * @throws {@link ImageError} `ERR_NOT_CACHED` if one is not there (any more), `ERR_IO` if the cache can't be written,
   * `ERR_LOCK_TIMEOUT` as in {@link remove}.
   */
  async lease(digests: string[], options: WaitOptions = {}): Promise<Lease> {
    checkDigests(digests);
    const wait = waitText(options);
    const lease = this.#native.lease();
    await runTask<null>(() => lease.take(digests, wait), options.signal, undefined).result;
    return {
      release: () => {
        unwrap(lease.release());
      },
    };
  }

  #layer(digest: string, kind: string): string {
    if (typeof digest !== 'string') throw wrongType('digest', 'of type string', digest);
    return unwrap(this.#native.layerPath(digest, kind));
  }
}

function checkDigests(digests: unknown): void {
  if (!Array.isArray(digests)) throw wrongType('digests', 'an Array of strings', digests);
  digests.forEach((digest, at) => {
    if (typeof digest !== 'string') throw wrongType(`digests[${at}]`, 'of type string', digest);
  });
}
