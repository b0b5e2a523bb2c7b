/** Platforms, in the words of the OCI image-spec (GOOS and GOARCH). */
import { wrongType } from './errors.js';
import { native, unwrap } from './native/index.js';

/** What an image is made for. */
export interface Platform {
  /** Operating system: `linux`. */
  os: string;
  /** CPU architecture: `amd64`, `arm64`, `arm`, … */
  architecture: string;
  /** Variant of the architecture: `v7`, `v8`. */
  variant?: string;
}

/**
 * Parses `os/architecture[/variant]`; `x86_64`, `aarch64`, `armhf`, `i386` and such are taken for what they mean.
 *
 * @throws {@link ImageError} `ERR_INVALID_OPTION`; `TypeError` if it is no string.
 */
export function parsePlatform(text: string): Platform {
  if (typeof text !== 'string') throw wrongType('text', 'of type string', text);
  return unwrap<Platform>(native().parsePlatform(text));
}

/** The platform that is pulled by default: `linux` on this machine's CPU, whatever system the machine runs. */
export function hostPlatform(): Platform {
  return unwrap<Platform>(native().hostPlatform());
}

/** The same as {@link hostPlatform}, under the original crate's name. */
export function hostLinux(): Platform {
  return hostPlatform();
}

/** @internal A platform given as either, checked; `undefined` stays. */
export function toPlatform(value: unknown, name: string): Platform | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'string') return parsePlatform(value);
  const { os, architecture, variant } = (value ?? {}) as Partial<Record<keyof Platform, unknown>>;
  if (typeof os !== 'string' || typeof architecture !== 'string' || !['string', 'undefined'].includes(typeof variant)) {
    throw wrongType(name, 'of type string or a Platform', value);
  }
  return parsePlatform([os, architecture, ...(typeof variant === 'string' ? [variant] : [])].join('/'));
}

/** @internal A platform given as either, as the addon takes it. */
export function platformJson(value: unknown, name: string): string | undefined {
  const platform = toPlatform(value, name);
  return platform === undefined ? undefined : JSON.stringify(platform);
}
