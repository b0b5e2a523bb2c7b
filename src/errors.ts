/** Errors: one class, told apart by `code`. */

/** What went wrong. Codes never change between versions; messages may. */
export type ImageErrorCode =
  /** The text is no image reference. */
  | 'ERR_INVALID_REFERENCE'
  /** The text is no digest that is known here (sha256, sha512). */
  | 'ERR_INVALID_DIGEST'
  /** An option has a value that can't be used; the message names it. */
  | 'ERR_INVALID_OPTION'
  /** The registry has no such image, tag or blob. */
  | 'ERR_NOT_FOUND'
  /** The registry wants another login; the message says what to do. */
  | 'ERR_UNAUTHORIZED'
  /** The registry answered with an error; `details.status` is its HTTP status. */
  | 'ERR_REGISTRY'
  /** DNS, connection, TLS or a broken transfer, after all retries. */
  | 'ERR_NETWORK'
  /** No connection or no byte within `connectTimeout` or `stallTimeout`. */
  | 'ERR_TIMEOUT'
  /** The image is not made for the platform; `details.available` lists what there is. */
  | 'ERR_PLATFORM_NOT_FOUND'
  /** The manifest or index can't be used. */
  | 'ERR_MANIFEST'
  /** The image config can't be used. */
  | 'ERR_CONFIG'
  /** An artifact, an encrypted layer, a compression that is not supported. */
  | 'ERR_UNSUPPORTED_MEDIA_TYPE'
  /** Bytes do not hash to what was promised, or have another length. */
  | 'ERR_DIGEST_MISMATCH'
  /** A layer's archive is damaged or asks for what no layer may. */
  | 'ERR_EXTRACTION'
  /** A limit was reached; `details.option` names the option that raises it. */
  | 'ERR_LIMIT'
  /** A layer index is damaged. */
  | 'ERR_INDEX'
  /** The cache directory can't serve: its owner, its file system, a planted link. */
  | 'ERR_CACHE'
  /** Policy `never` and the image is not in the cache whole. */
  | 'ERR_NOT_CACHED'
  /** Another process held a lock for longer than `lockTimeout`; `details.holder` is its id where known. */
  | 'ERR_LOCK_TIMEOUT'
  /** The disk or quota is full, or will be; `details.need` bytes are needed at least, where known, `details.free` are left. */
  | 'ERR_NO_SPACE'
  /** Another failure of the file system; `details.path` says where. */
  | 'ERR_IO'
  /** The pull was stopped; only where no `AbortSignal` gave a reason of its own. */
  | 'ERR_ABORTED'
  /** A fault of this package. Please report it. */
  | 'ERR_INTERNAL';

/** An error as it crosses from the addon. */
export interface Failure {
  code: ImageErrorCode;
  message: string;
  reference?: string;
  layer?: string;
  details?: Record<string, unknown>;
  causes: string[];
}

/**
 * What every failed call rejects with or throws.
 *
 * `cause` links what lies below (an errno, a TLS error), one error after the other.
 */
export class ImageError extends Error {
  override readonly name = 'ImageError';
  /** What went wrong. */
  readonly code: ImageErrorCode;
  /** The image it happened to, in canonical text. */
  readonly reference?: string;
  /** The compressed digest of the layer it happened to. */
  readonly layer?: string;
  /** Facts for programs, by code: `status`, `registry`, `available`, `expected`, `actual`, `limit`, `option`, `path`, … */
  readonly details?: Readonly<Record<string, unknown>>;

  /** Made by this package; public so that tests of other programs can make one. */
  constructor(
    code: ImageErrorCode,
    message: string,
    facts: { reference?: string; layer?: string; details?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = code;
    if (facts.reference !== undefined) this.reference = facts.reference;
    if (facts.layer !== undefined) this.layer = facts.layer;
    if (facts.details !== undefined) this.details = facts.details;
  }
}

/** @internal The failure as an exception, its causes as a chain. */
export function toImageError(failure: Failure): ImageError {
  const { code, message, causes, ...facts } = failure;
  const cause = causes.reduceRight<Error | undefined>(
    (below, text) => new Error(text, below === undefined ? undefined : { cause: below }),
    undefined,
  );
  return new ImageError(code, message, { ...facts, ...(cause === undefined ? {} : { cause }) });
}

/** @internal A wrong type of argument, as Node's own functions throw it. */
export function wrongType(name: string, expected: string, value: unknown): TypeError {
  const got = value === null ? 'null' : typeof value === 'object' ? 'an object' : `type ${typeof value}`;
  const error = new TypeError(`The "${name}" argument must be ${expected}. Received ${got}`);
  return Object.assign(error, { code: 'ERR_INVALID_ARG_TYPE' });
}
