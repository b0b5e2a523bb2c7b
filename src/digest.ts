/** Content digests (OCI image-spec, descriptor.md). */
import { wrongType } from './errors.js';
import { native, unwrap } from './native/index.js';

/** A parsed digest: `sha256:` and 64 hexadecimal digits, or `sha512:` and 128. */
export class Digest {
  /** `sha256` or `sha512`. */
  readonly algorithm: string;
  /** Lower-case hexadecimal digits. */
  readonly hex: string;

  private constructor(algorithm: string, hex: string) {
    this.algorithm = algorithm;
    this.hex = hex;
  }

  /**
   * Parses `algorithm:hex`.
   *
   * @throws {@link ImageError} `ERR_INVALID_DIGEST`; `TypeError` if it is no string.
   */
  static parse(text: string): Digest {
    if (typeof text !== 'string') throw wrongType('text', 'of type string', text);
    const { algorithm, hex } = unwrap<{ algorithm: string; hex: string }>(native().parseDigest(text));
    return new Digest(algorithm, hex);
  }

  /** The form used in the cache's file names: `sha256_…`. */
  toPathSafe(): string {
    return `${this.algorithm}_${this.hex}`;
  }

  /** `sha256:…` */
  toString(): string {
    return `${this.algorithm}:${this.hex}`;
  }

  /** `sha256:…` */
  toJSON(): string {
    return this.toString();
  }
}
