/** Builds an index: one name for several images, one for each platform. Pure. */
import { contentOf, type Content, type DigestAlgorithm } from './digest.js';
import { descriptor, image, jsonBytes, type BuiltImage, type ImageSpec, type RawManifest } from './image.js';
import type { MediaTypes } from './layer.js';
import { parsePlatformSpec, type PlatformFields, type PlatformSpec } from './platform.js';

/** One line of an index. */
export interface IndexEntrySpec {
  image: ImageSpec | BuiltImage | BuiltIndex | RawManifest;
  /** What the index says. Default: the image's own platform; null: nothing. */
  platform?: PlatformSpec | null;
  annotations?: Record<string, string>;
  /** Listed but not served, as in a sparse index. Default: false. */
  missing?: boolean;
  /** Fields that are added to, or replace, those of the descriptor. */
  fields?: Record<string, unknown>;
}

/** What an index says beside its entries. */
export interface IndexOptions {
  /** Default: `oci` (`docker` makes a manifest list). */
  mediaTypes?: MediaTypes;
  annotations?: Record<string, string>;
  /** Fields that are added to, or replace, those of the document. */
  fields?: Record<string, unknown>;
  digestAlgorithm?: DigestAlgorithm;
}

/** An index, ready to be served. `manifests` holds what is served beside it; a missing one isn't there. */
export interface BuiltIndex extends Content {
  readonly kind: 'index';
  readonly manifests: readonly (BuiltImage | BuiltIndex | RawManifest)[];
}

const INDEX_TYPES = {
  oci: 'application/vnd.oci.image.index.v1+json',
  docker: 'application/vnd.docker.distribution.manifest.list.v2+json',
};

/** Builds an index of images, or of further indexes, in the order given. */
export function index(entries: IndexEntrySpec[], options: IndexOptions = {}): BuiltIndex {
  const family = options.mediaTypes ?? 'oci';
  const built = entries.map((entry) => ({ entry, content: buildEntry(entry.image) }));
  const document = {
    schemaVersion: 2,
    mediaType: INDEX_TYPES[family],
    manifests: built.map(({ entry, content }) => line(entry, content)),
    ...(options.annotations ? { annotations: options.annotations } : {}),
    ...options.fields,
  };
  return {
    kind: 'index',
    ...contentOf(jsonBytes(document), INDEX_TYPES[family], options.digestAlgorithm),
    manifests: built.filter(({ entry }) => !entry.missing).map(({ content }) => content),
  };
}

function buildEntry(spec: IndexEntrySpec['image']): BuiltImage | BuiltIndex | RawManifest {
  return 'kind' in spec ? spec : image(spec);
}

function line(entry: IndexEntrySpec, content: BuiltImage | BuiltIndex | RawManifest): object {
  const platform = platformOf(entry, content);
  return {
    ...descriptor(content),
    ...(platform ? { platform } : {}),
    ...(entry.annotations ? { annotations: entry.annotations } : {}),
    ...entry.fields,
  };
}

function platformOf(entry: IndexEntrySpec, content: BuiltImage | BuiltIndex | RawManifest): PlatformFields | undefined {
  if (entry.platform === null) return undefined;
  if (entry.platform !== undefined) return parsePlatformSpec(entry.platform);
  return content.kind === 'image' ? content.platform : undefined;
}
