/**
 * What the registry holds: for each repository its tags, manifests and blobs, as a real one keeps them apart.
 * In memory; trusts the digests that the builder wrote.
 */
import { contentOf, digestOf, type Content } from './digest.js';
import { image, type BuiltImage, type ImageSpec, type RawManifest } from './image.js';
import type { BuiltIndex } from './image-index.js';

/** What can be pushed: a specification, which is built first, or something built. */
export type Publishable = ImageSpec | Built;

/** An image, an index or raw bytes, ready to be served. */
export type Built = BuiltImage | BuiltIndex | RawManifest;

export interface Manifest {
  readonly content: Content;
  /** The Content-Type header; null: none. */
  readonly contentType: string | null;
}

interface Repository {
  readonly tags: Map<string, string>;
  readonly manifests: Map<string, Manifest>;
  readonly blobs: Map<string, Content>;
}

/** A name in this registry, apart from its host. */
interface StoredName {
  repository: string;
  tag?: string;
  digest?: string;
}

/** `repository[:tag][@digest]`; without either, the tag is `latest`. */
function parseStoredName(text: string): StoredName {
  const [, repository, tag, digest] = /^([^:@]+)(?::([^@]+))?(?:@(.+))?$/.exec(text) ?? [];
  if (repository === undefined) throw new TypeError(`not a name of an image: ${text} (repository:tag)`);
  if (tag === undefined && digest === undefined) return { repository, tag: 'latest' };
  return { repository, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) };
}

export class Store {
  readonly #repositories = new Map<string, Repository>();

  push(name: string, publishable: Publishable): Built {
    const { repository, tag } = parseStoredName(name);
    const built = 'kind' in publishable ? publishable : image(publishable);
    const home = this.#open(repository);
    putManifest(home, built);
    if (tag !== undefined) home.tags.set(tag, built.digest);
    return built;
  }

  /** Takes away a tag, or a manifest with every tag that names it. */
  remove(name: string): boolean {
    const { repository, tag, digest } = parseStoredName(name);
    const home = this.#repositories.get(repository);
    if (!home) return false;
    if (digest === undefined) return tag !== undefined && home.tags.delete(tag);
    for (const [key, value] of home.tags) if (value === digest) home.tags.delete(key);
    return home.manifests.delete(digest);
  }

  addBlob(repository: string, bytes: Buffer, digest?: string): Content {
    const content = contentOf(bytes, 'application/octet-stream');
    const named = digest === undefined ? content : { ...content, digest };
    this.#open(repository).blobs.set(named.digest, named);
    return named;
  }

  removeBlob(repository: string, digest: string): boolean {
    return this.#repositories.get(repository)?.blobs.delete(digest) ?? false;
  }

  has(repository: string): boolean {
    return this.#repositories.has(repository);
  }

  /** `reference` is a tag or a digest. */
  manifest(repository: string, reference: string): Manifest | undefined {
    const home = this.#repositories.get(repository);
    return home?.manifests.get(home.tags.get(reference) ?? reference);
  }

  blob(repository: string, digest: string): Content | undefined {
    return this.#repositories.get(repository)?.blobs.get(digest);
  }

  tags(repository: string): string[] {
    return [...(this.#repositories.get(repository)?.tags.keys() ?? [])].sort();
  }

  #open(repository: string): Repository {
    let home = this.#repositories.get(repository);
    if (!home) {
      home = { tags: new Map(), manifests: new Map(), blobs: new Map() };
      this.#repositories.set(repository, home);
    }
    return home;
  }
}

function putManifest(home: Repository, built: Built): void {
  const contentType = built.kind === 'raw' ? built.contentType : built.mediaType;
  const manifest = { content: built, contentType };
  // A client may ask for the same manifest under either algorithm.
  for (const algorithm of ['sha256', 'sha512'] as const) {
    home.manifests.set(digestOf(built.bytes, algorithm), manifest);
  }
  for (const blob of blobsOf(built)) home.blobs.set(blob.digest, blob);
  if (built.kind === 'index') for (const each of built.manifests) putManifest(home, each);
}

function blobsOf(built: Built): readonly Content[] {
  if (built.kind === 'image') return [built.config, ...built.layers];
  return built.kind === 'raw' ? built.blobs : [];
}
