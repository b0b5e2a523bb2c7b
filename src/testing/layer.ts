/**
 * A layer: a tar, the blob that carries it, and the two digests that name them (`digest` of the blob, `diffId` of the tar).
 * Built from entries, from a ready tar, or from a ready blob. Checks nothing: a wrong `diffId` is kept as it was given.
 */
import { compress, decompress, type Compression } from './compression.js';
import { contentOf, digestOf, type Content, type DigestAlgorithm } from './digest.js';
import { tar, type TarEntry, type TarOptions } from './tar.js';

/** Which family of media types an image is written in. */
export type MediaTypes = 'oci' | 'docker';

/** A layer in full; entries alone, or the bytes of a tar alone, are the short forms. Give one of `entries`, `tar` and `blob`. */
export interface LayerOptions extends TarOptions {
  entries?: Iterable<TarEntry | Buffer>;
  /** The bytes of a ready tar. */
  tar?: Buffer;
  /** The bytes as they are served, packed or not. */
  blob?: Buffer;
  /** How the tar is packed. Default: the image's `compression`, else `gzip`. Without meaning for a ready `blob`. */
  compression?: Compression;
  /** Default: the library's. */
  level?: number;
  /** Default: what fits the image's media types and the compression. */
  mediaType?: string;
  /** What the config says of this layer. Default: the truth. */
  diffId?: string;
  /** Default: `sha256`. */
  digestAlgorithm?: DigestAlgorithm;
  /** Annotations and foreign addresses of the layer's descriptor. Default: none. */
  annotations?: Record<string, string>;
  urls?: string[];
}

/** A layer: entries of an archive (a Buffer among them is raw bytes of it), a whole archive, or either with options. */
export type LayerSpec = (TarEntry | Buffer)[] | Buffer | LayerOptions;

/** A layer, ready to be served. `bytes`, `digest` and `size` are the blob's. */
export interface BuiltLayer extends Content {
  /** Digest of the uncompressed tar. */
  readonly diffId: string;
  readonly annotations?: Record<string, string>;
  readonly urls?: string[];
}

/** Builds one layer by itself, for example to share it between images. */
export function layer(
  spec: LayerSpec | BuiltLayer,
  defaults: { mediaTypes?: MediaTypes; compression?: Compression } = {},
): BuiltLayer {
  if (isBuiltLayer(spec)) return spec;
  const options = toOptions(spec);
  const archive = options.tar ?? (options.entries ? tar(options.entries, options) : undefined);
  const compression = options.compression ?? defaults.compression ?? 'gzip';
  const blob = options.blob ?? compress(archive ?? tar([], options), compression, options.level);
  const mediaType = options.mediaType ?? layerMediaType(defaults.mediaTypes ?? 'oci', blob);
  const diffId = options.diffId ?? digestOf(archive ?? decompress(blob));
  return {
    ...contentOf(blob, mediaType, options.digestAlgorithm),
    diffId,
    ...(options.annotations ? { annotations: options.annotations } : {}),
    ...(options.urls ? { urls: options.urls } : {}),
  };
}

function isBuiltLayer(spec: LayerSpec | BuiltLayer): spec is BuiltLayer {
  return 'bytes' in spec && 'digest' in spec;
}

function toOptions(spec: LayerSpec): LayerOptions {
  if (Buffer.isBuffer(spec)) return { tar: spec };
  return Array.isArray(spec) ? { entries: spec } : spec;
}

/** The media type that tells the truth about a blob, by its first bytes. */
function layerMediaType(family: MediaTypes, blob: Buffer): string {
  const gzip = blob[0] === 0x1f && blob[1] === 0x8b;
  const zstd = blob.length >= 4 && blob.readUInt32LE(0) === 0xfd2fb528;
  if (family === 'docker') {
    if (gzip) return 'application/vnd.docker.image.rootfs.diff.tar.gzip';
    return zstd ? 'application/vnd.docker.image.rootfs.diff.tar.zstd' : 'application/vnd.docker.image.rootfs.diff.tar';
  }
  if (gzip) return 'application/vnd.oci.image.layer.v1.tar+gzip';
  return zstd ? 'application/vnd.oci.image.layer.v1.tar+zstd' : 'application/vnd.oci.image.layer.v1.tar';
}
