/** Image references, by the grammar of the distribution project. */
import { wrongType } from './errors.js';
import { native, unwrap } from './native/index.js';

/** A parsed image reference. */
export class Reference {
  /** The registry's host, with a port where one is named: `docker.io`, `127.0.0.1:5000`. */
  readonly registry: string;
  /** The repository: `library/alpine`. */
  readonly repository: string;
  /** The tag; `latest` where neither tag nor digest was named. */
  readonly tag?: string;
  /** The digest of the manifest or index, where the reference pins one. */
  readonly digest?: string;
  readonly #text: string;

  private constructor(text: string, parts: { registry: string; repository: string; tag?: string; digest?: string }) {
    this.#text = text;
    this.registry = parts.registry;
    this.repository = parts.repository;
    if (typeof parts.tag === 'string') this.tag = parts.tag;
    if (typeof parts.digest === 'string') this.digest = parts.digest;
  }

  /**
   * Parses `[registry/]repository[:tag][@digest]`. No registry means Docker Hub.
   *
   * @throws {@link ImageError} `ERR_INVALID_REFERENCE`; `TypeError` if it is no string.
   */
  static parse(text: string): Reference {
    if (typeof text !== 'string') throw wrongType('text', 'of type string', text);
    const parts = unwrap<{ text: string; registry: string; repository: string; tag?: string; digest?: string }>(
      native().parseReference(text),
    );
    return new Reference(parts.text, parts);
  }

  /** The canonical text: `docker.io/library/alpine:latest`. */
  toString(): string {
    return this.#text;
  }

  /** The canonical text. */
  toJSON(): string {
    return this.#text;
  }
}

/** @internal The text of a reference given as either. */
export function referenceText(reference: unknown): string {
  if (typeof reference === 'string') return reference;
  if (reference instanceof Reference) return reference.toString();
  throw wrongType('reference', 'of type string or an instance of Reference', reference);
}
