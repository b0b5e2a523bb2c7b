/** The client: pulls images into one cache. */
import { GlobalCache } from './cache.js';
import type { CredentialCallback } from './credentials.js';
import { wrongType } from './errors.js';
import type { NativeRegistry } from './native/binding.js';
import { native, unwrap } from './native/index.js';
import {
  checkBoolean,
  checkObject,
  defaultCacheDirectory,
  type PullOptions,
  pullText,
  type RegistryOptions,
  registryText,
} from './options.js';
import type { PullPlan } from './plan.js';
import { type Platform, platformJson } from './platform.js';
import { type ImageConfig, type Pull, type PullResult, runTask, toPull } from './pull.js';
import { type Reference, referenceText } from './reference.js';
import { checkSignal } from './signal.js';

/** What an image consists of, as its registry says. */
export interface ResolvedImage {
  /** Canonical reference. */
  reference: string;
  /** Platform of the chosen manifest. */
  platform: Platform;
  /** Digest of the platform's manifest, of the bytes as served. */
  manifestDigest: string;
  /** Digest of the index it was chosen from. */
  indexDigest?: string;
  /** Media type of the manifest. */
  manifestMediaType: string;
  /** Digest of the image config. */
  configDigest: string;
  /** What a container runs. */
  config: ImageConfig;
  /** The layers, bottom first; `size` is the compressed length in bytes. */
  layers: { digest: string; diffId: string; mediaType: string; size: number }[];
  /** Why this manifest was chosen. */
  reason: string;
  /** All manifests of the index; attestations are never chosen. */
  candidates: { platform?: Platform; digest: string; attestation: boolean }[];
  /** The manifest as served. */
  rawManifest: string;
  /** The index as served. */
  rawIndex?: string;
  /** The image config as served. */
  rawConfig: string;
}

/**
 * A client for registries, bound to one cache and one platform. Making one opens no socket and touches no file.
 *
 * ```ts
 * const registry = new Registry({ cache: '/var/cache/images' });
 * const { layers, config } = await registry.pull('alpine:3.20');
 * ```
 */
export class Registry {
  /** The cache. */
  readonly cache: GlobalCache;
  /** The platform that is pulled where a call names none. */
  readonly platform: Platform;
  readonly #native: NativeRegistry;
  readonly #askForCredential: CredentialCallback | undefined;

  /**
   * @throws {@link ImageError} `ERR_INVALID_OPTION` on bad certificates, mirrors, proxy or platform; `TypeError` on a
   * wrong type.
   */
  constructor(options: RegistryOptions = {}) {
    if (typeof options !== 'object' || (options as unknown) === null)
      throw wrongType('options', 'of type object', options);
    const { cache = defaultCacheDirectory() } = options;
    this.cache = cache instanceof GlobalCache ? cache : new GlobalCache(cache);
    this.#native = new (native().NativeRegistry)(registryText(options, this.cache));
    this.platform = unwrap<Platform>(this.#native.check());
    this.#askForCredential = typeof options.auth === 'function' ? options.auth : undefined;
  }

  /**
   * Pulls an image: resolves it, downloads what the cache lacks, verifies every byte, extracts, remembers.
   *
   * Rejects with an {@link ImageError}, or with the signal's reason. Wrong types of arguments throw at once.
   */
  pull(reference: string | Reference, options: PullOptions = {}): Pull {
    const [text, pull] = [referenceText(reference), pullText(options)];
    return toPull(runTask<PullResult>(() => this.#native.pull(text, pull), options.signal, this.#askForCredential));
  }

  /**
   * Answers from the cache alone, in microseconds: no network, no lock, no write but the time of use, noted once an hour at
   * most and only where the cache can be written. `null` if the image is not there whole, if `accessScope` was not shown to
   * have access to all of it, or if it was not on the disk for sure before the machine was started: {@link pull} then looks it
   * through, once.
   *
   * An image of another platform than `platform`, or than the registry's, is answered only with `allowPlatformMismatch`, after
   * a pull that allowed it as well.
   *
   * Synchronous. @throws {@link ImageError} `ERR_INVALID_REFERENCE`, `ERR_INVALID_OPTION` on a bad platform, `ERR_IO`;
   * `ERR_CACHE` where a directory, the metadata or a tree belong to somebody who is not trusted (`trustedOwners`) or can be
   * written by everybody; `TypeError` on a wrong type.
   */
  pullCached(
    reference: string | Reference,
    options: Pick<PullOptions, 'platform' | 'allowPlatformMismatch'> = {},
  ): PullResult | null {
    checkObject(options, 'options');
    const platform = platformJson(options.platform, 'options.platform');
    const anyPlatform = checkBoolean(options.allowPlatformMismatch, 'options.allowPlatformMismatch');
    return unwrap<PullResult | null>(this.#native.pullCached(referenceText(reference), platform, anyPlatform));
  }

  /**
   * Finds out what an image consists of: manifest and config for the platform, and why they were chosen. Fetches no layer
   * and writes nothing.
   */
  resolve(
    reference: string | Reference,
    options: { signal?: AbortSignal; platform?: Platform | string } = {},
  ): Promise<ResolvedImage> {
    checkObject(options, 'options');
    checkSignal(options.signal);
    const [text, platform] = [referenceText(reference), platformJson(options.platform, 'options.platform')];
    const start = (): ReturnType<NativeRegistry['resolve']> => this.#native.resolve(text, platform);
    return runTask<ResolvedImage>(start, options.signal, this.#askForCredential).result;
  }

  /**
   * Finds out what {@link pull} would do with these options: what it would fetch, what is there, what room it needs. Fetches
   * no layer, writes nothing, takes no lock; asks the registry only where the pull would, and fails as the pull would.
   *
   * ```ts
   * const { downloadBytes, diskBytes, freeBytes } = await registry.plan('debian:12');
   * ```
   */
  plan(reference: string | Reference, options: PullOptions = {}): Promise<PullPlan> {
    const [text, pull] = [referenceText(reference), pullText(options)];
    return runTask<PullPlan>(() => this.#native.plan(text, pull), options.signal, this.#askForCredential).result;
  }
}

/**
 * Pulls an image with the default cache and platform, or those in the options.
 *
 * ```ts
 * import { pull } from 'microsandbox-image';
 * const { layers } = await pull('alpine');
 * ```
 */
export function pull(reference: string | Reference, options: RegistryOptions & PullOptions = {}): Pull {
  return new Registry(options).pull(reference, options);
}

/** Finds out what {@link pull} would do, with the default cache and platform, or those in the options. */
export function plan(reference: string | Reference, options: RegistryOptions & PullOptions = {}): Promise<PullPlan> {
  return new Registry(options).plan(reference, options);
}
