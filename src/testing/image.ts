/**
 * Builds images and indexes of images: the JSON documents around layers, with every digest and size right unless a
 * test asks for something else. Pure; equal specifications give equal bytes.
 *
 * ```ts
 * const app = image({ layers: [[{ path: 'etc/motd', content: 'hello' }]], config: { Env: ['A=1'] } });
 * app.digest; // sha256:…
 * ```
 */
import type { Compression } from './compression.js';
import { contentOf, type Content, type DigestAlgorithm } from './digest.js';
import { layer, type BuiltLayer, type LayerSpec, type MediaTypes } from './layer.js';
import { parsePlatformSpec, type PlatformFields, type PlatformSpec } from './platform.js';

/** What an image is made of. */
export interface ImageSpec {
  /** Bottom layer first. A layer is a list of entries, a tar, or options; one that was built with `layer()` is taken as it is. */
  layers: (LayerSpec | BuiltLayer)[];
  /** The `config` object of the image's config: `Env`, `Cmd`, `Entrypoint`, `WorkingDir`, `User`, `Labels`, … Default: `{}`. */
  config?: Record<string, unknown>;
  /** `'linux/arm64/v8'` or its parts. Default: linux and this machine's processor. */
  platform?: PlatformSpec;
  /** Default: `oci`. */
  mediaTypes?: MediaTypes;
  /** How layers are packed that don't say so themselves. Default: `gzip`. */
  compression?: Compression;
  /** Annotations of the manifest. Default: none. */
  annotations?: Record<string, string>;
  /** Fields that are added to, or replace, those of the config document (`rootfs`, `history`, `os.version`, …). */
  configFields?: Record<string, unknown>;
  /** The config's bytes, in place of the document made here. */
  rawConfig?: Buffer;
  /** Default: the family's config type. */
  configMediaType?: string;
  /** Fields that are added to, or replace, those of the manifest (`artifactType`, `subject`, `mediaType`, …); undefined removes one. */
  manifestFields?: Record<string, unknown>;
  /** The algorithm that names manifest and config. Default: `sha256`. */
  digestAlgorithm?: DigestAlgorithm;
}

/** An image, ready to be served. `bytes`, `digest`, `size` and `mediaType` are the manifest's. */
export interface BuiltImage extends Content {
  readonly kind: 'image';
  readonly platform: PlatformFields;
  readonly config: Content;
  readonly layers: readonly BuiltLayer[];
}

/** A manifest of any bytes, and the blobs served beside it. */
export interface RawManifest extends Content {
  readonly kind: 'raw';
  readonly blobs: readonly Content[];
  /** The Content-Type it is served with; null: none. */
  readonly contentType: string | null;
}

const MANIFEST_TYPES = {
  oci: 'application/vnd.oci.image.manifest.v1+json',
  docker: 'application/vnd.docker.distribution.manifest.v2+json',
};
const CONFIG_TYPES = {
  oci: 'application/vnd.oci.image.config.v1+json',
  docker: 'application/vnd.docker.container.image.v1+json',
};

/** Builds an image. */
export function image(spec: ImageSpec): BuiltImage {
  const family = spec.mediaTypes ?? 'oci';
  const platform = parsePlatformSpec(spec.platform);
  const defaults = { mediaTypes: family, ...(spec.compression ? { compression: spec.compression } : {}) };
  const layers = spec.layers.map((each) => layer(each, defaults));
  const config = contentOf(
    spec.rawConfig ?? jsonBytes(configDocument(spec, platform, layers)),
    spec.configMediaType ?? CONFIG_TYPES[family],
    spec.digestAlgorithm,
  );
  const manifest = {
    schemaVersion: 2,
    mediaType: MANIFEST_TYPES[family],
    config: descriptor(config),
    layers: layers.map((each) => ({
      ...descriptor(each),
      ...(each.urls ? { urls: each.urls } : {}),
      ...(each.annotations ? { annotations: each.annotations } : {}),
    })),
    ...(spec.annotations ? { annotations: spec.annotations } : {}),
    ...spec.manifestFields,
  };
  const content = contentOf(jsonBytes(manifest), MANIFEST_TYPES[family], spec.digestAlgorithm);
  return { kind: 'image', ...content, platform, config, layers };
}

/** How `rawManifest` names and serves its bytes. */
export interface RawManifestOptions {
  /** Default: the OCI manifest's type. */
  mediaType?: string;
  /** The Content-Type header; null: none. Default: `mediaType`. */
  contentType?: string | null;
  /** Blobs served beside it. Default: none. */
  blobs?: Content[];
  /** Default: `sha256`. */
  digestAlgorithm?: DigestAlgorithm;
}

/**
 * A manifest of any bytes under any media type: artifacts, damaged JSON, documents of four megabytes.
 * A string is taken as text, an object is written as JSON.
 */
export function rawManifest(body: Buffer | string | object, options: RawManifestOptions = {}): RawManifest {
  const bytes = Buffer.isBuffer(body) ? body : typeof body === 'string' ? Buffer.from(body) : jsonBytes(body);
  const mediaType = options.mediaType ?? MANIFEST_TYPES.oci;
  const contentType = options.contentType === undefined ? mediaType : options.contentType;
  return {
    kind: 'raw',
    ...contentOf(bytes, mediaType, options.digestAlgorithm),
    contentType,
    blobs: options.blobs ?? [],
  };
}

/** The descriptor by which one document names another. */
export function descriptor(content: Content): { mediaType: string; digest: string; size: number } {
  return { mediaType: content.mediaType, digest: content.digest, size: content.size };
}

/** @internal */
export function jsonBytes(value: object): Buffer {
  return Buffer.from(JSON.stringify(value));
}

function configDocument(spec: ImageSpec, platform: PlatformFields, layers: BuiltLayer[]): object {
  return {
    created: '1970-01-01T00:00:00Z',
    ...platform,
    config: spec.config ?? {},
    rootfs: { type: 'layers', diff_ids: layers.map((each) => each.diffId) },
    history: layers.map((_, index) => ({
      created: '1970-01-01T00:00:00Z',
      created_by: `layer ${index}`,
    })),
    ...spec.configFields,
  };
}
