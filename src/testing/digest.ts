/**
 * Digests of bytes, and the smallest thing a registry serves: bytes with a name, a size and a media type.
 * Pure; trusts its caller.
 */
import { createHash } from 'node:crypto';

/** The algorithms of the OCI image specification. */
export type DigestAlgorithm = 'sha256' | 'sha512';

/** Node's hash takes less than 2 GiB at a time. */
const SLICE = 2 ** 30;

/** Bytes as a registry serves them. `size` is the number of bytes; `digest` reads `sha256:<hex>` (or `sha512:<hex>`). */
export interface Content {
  readonly mediaType: string;
  readonly bytes: Buffer;
  readonly digest: string;
  readonly size: number;
}

/** The digest of `bytes` as OCI writes it: `sha256:<64 hex digits>` or `sha512:<128 hex digits>`. */
export function digestOf(bytes: Uint8Array, algorithm: DigestAlgorithm = 'sha256'): string {
  const hash = createHash(algorithm);
  for (let at = 0; at < bytes.length; at += SLICE) hash.update(bytes.subarray(at, at + SLICE));
  return `${algorithm}:${hash.digest('hex')}`;
}

/** Names and measures `bytes`. */
export function contentOf(bytes: Buffer, mediaType: string, algorithm: DigestAlgorithm = 'sha256'): Content {
  return { mediaType, bytes, digest: digestOf(bytes, algorithm), size: bytes.length };
}
