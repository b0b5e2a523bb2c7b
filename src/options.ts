/** Options, checked and completed before they cross to the addon. */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { GlobalCache } from './cache.js';
import { checkAuth, type CredentialCallback, type RegistryAuth } from './credentials.js';
import { wrongType } from './errors.js';
import { type Platform, toPlatform } from './platform.js';
import { checkSignal } from './signal.js';

/** Bounds of one layer, so that no image can fill the host. `null` is no bound. */
export interface Limits {
  /** Bytes of file content written for a layer. Default 10 GiB. */
  layerBytes: number | null;
  /** Bytes of one file, holes included. Default 5 GiB. */
  fileBytes: number | null;
  /** Entries of a layer, directories made on the way included. Default 1,000,000. */
  entries: number | null;
  /** Components of a path. Default 128. */
  depth: number | null;
}

/** Options that hold for all pulls of a {@link Registry}. */
export interface RegistryOptions {
  /** The cache, or its directory. Default: `~/.microsandbox/cache`, shared with the Rust crate `microsandbox-image`. */
  cache?: GlobalCache | string;
  /** Platform to pull: `'linux/arm64/v8'` or its parts. Default: `linux` on this machine's CPU. */
  platform?: Platform | string;
  /** A credential for the registry of the reference, or a function that is asked by host. Goes before stored logins. */
  auth?: RegistryAuth | CredentialCallback;
  /**
   * Where stored logins are looked up: `'default'` is Docker's `config.json` (with its helpers), then podman's `auth.json`;
   * `'none'` is nowhere; anything else is the path of a Docker `config.json`.
   */
  credentials?: 'default' | 'none' | (string & {});
  /** Hosts (`host:port`) that may be spoken to in plain HTTP; `true` is any. Loopback needs no mention. Default: none. */
  insecure?: boolean | string[];
  /** Certificates (PEM text) to trust beside the system's. Bad PEM throws `ERR_INVALID_OPTION` at construction. */
  caCertificates?: string | Buffer | (string | Buffer)[];
  /** Base URLs to try before a registry, in order: `{ 'docker.io': ['http://127.0.0.1:5000'] }`. */
  mirrors?: Record<string, string[]>;
  /** URL of a proxy; `null` is none. Default: what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say. */
  proxy?: string | null;
  /** Milliseconds a connection may take to come up. Default 10,000. */
  connectTimeout?: number;
  /** Milliseconds without a byte. Default 30,000. */
  stallTimeout?: number;
  /** Milliseconds to wait for a lock that another process holds; `null` is for ever. Default 600,000. */
  lockTimeout?: number | null;
  /**
   * Users, by id, whose files in the cache are believed beside root's and one's own; a process of root also believes the
   * owner of the cache's directory. What anybody else owns, or everybody may write, is refused with `ERR_CACHE`. Default:
   * none.
   */
  trustedOwners?: number[];
  /**
   * Name of the tenant that pulls, on a server where several with logins of their own share a cache. What the cache holds then
   * counts only where this tenant's login was shown to have access to it in the repository of the reference: by having
   * downloaded it, or by one request a layer, which the cache remembers. What was not shown is `null` for `pullCached`, and
   * `ERR_NOT_CACHED` for policy `'never'`; a pull asks the registry, and fails as in an empty cache where it refuses. Empty:
   * `ERR_INVALID_OPTION`. Default: none; everybody who can name a digest gets what the cache holds.
   */
  accessScope?: string;
  /** How often a failed request is tried again; progress starts the count anew. Default 5. */
  retries?: number;
  /**
   * Connections for downloads at a time, for all pulls of this registry together; several pulls are served in turn. Default
   * 3. Each layer has one; where one turns out slower than its link, a large layer uses those that nobody needs as well, by
   * HTTP ranges.
   */
  concurrency?: number;
  /**
   * Threads that extract: layers at a time, of all pulls of this registry together, and writers for each. Default: by the
   * machine's cores.
   */
  threads?: number;
  /** Bounds of one layer. */
  limits?: Partial<Limits>;
}

/** Options of one pull. */
export interface PullOptions {
  /**
   * When the registry is asked: `'if-missing'` (default) only if the image is not in the cache whole, `'always'` for the
   * manifest every time (layers are reused by digest), `'never'` not at all (`ERR_NOT_CACHED`).
   */
  policy?: 'if-missing' | 'always' | 'never';
  /** Fetch and extract again, whatever the cache holds. Old trees are swapped out at the end. Default false. */
  force?: boolean;
  /** Write sidecar indexes. Default true. */
  index?: boolean;
  /** Another platform than the registry's. */
  platform?: Platform | string;
  /** Take a single manifest whose config names another platform. Default false. */
  allowPlatformMismatch?: boolean;
  /** Stops the pull within a quarter of a second; it rejects with the signal's reason. Partial downloads are kept. */
  signal?: AbortSignal;
  /** Parse no byte of a layer before all of it was verified; slower. Default false. */
  verifyBeforeExtract?: boolean;
  /**
   * Keep a layer's compressed blob after its tree was made. Default true. Without it a damaged tree has to be downloaded again,
   * and hits are as they are with it. Blobs of layers that were there before the pull stay.
   */
  keepBlobs?: boolean;
  /**
   * Before the first byte of a layer, refuse with `ERR_NO_SPACE` what can't fit: fewer bytes are free than are to be
   * downloaded, plus the compressed length of each layer whose tree is to be made. Default true.
   */
  checkSpace?: boolean;
  /**
   * Wait until the image is on the disk before resolving, also where it is in the cache already, so that it outlives a power
   * cut as it is. It takes as long as the disk takes to write all that its file system has to write. Default false: then
   * an image that a power cut may have damaged is looked through, and mended, when it is pulled for the first time after.
   */
  durable?: boolean;
  /** There is no such option: progress is the pull itself, `for await (const event of pull)`. */
  onProgress?: never;
}

/** Environment variables that the core looks at. */
const ENVIRONMENT = [
  ...['HTTPS_PROXY', 'HTTP_PROXY', 'ALL_PROXY', 'NO_PROXY'].flatMap((name) => [name, name.toLowerCase()]),
  ...['SSL_CERT_FILE', 'SSL_CERT_DIR', 'NODE_EXTRA_CA_CERTS', 'DOCKER_CONFIG', 'DOCKER_AUTH_CONFIG'],
  ...['REGISTRY_AUTH_FILE', 'XDG_RUNTIME_DIR', 'XDG_CONFIG_HOME', 'HOME', 'PATH'],
];

/** @internal The default cache directory: the original's. */
export function defaultCacheDirectory(): string {
  return join(process.env['MSB_HOME'] ?? join(homedir(), '.microsandbox'), 'cache');
}

/** @internal The options of a client as the addon takes them. */
export function registryText(options: RegistryOptions, cache: GlobalCache): string {
  checkObject(options, 'options');
  const { auth, insecure, caCertificates } = options;
  const text: Record<string, unknown> = {
    cache: cache.directory,
    trustedOwners: [...cache.trustedOwners, ...checkOwners(options.trustedOwners, 'options.trustedOwners')],
    accessScope: checkString(options.accessScope, 'options.accessScope'),
    platform: toPlatform(options.platform, 'options.platform'),
    auth: auth === undefined || typeof auth === 'function' ? undefined : checkAuth(auth, 'options.auth'),
    asksForCredentials: typeof auth === 'function',
    credentials: checkString(options.credentials, 'options.credentials'),
    insecure: Array.isArray(insecure) ? checkStrings(insecure, 'options.insecure') : [],
    insecureAny: insecure === true,
    caCertificates: pemTexts(caCertificates),
    mirrors: checkMirrors(options.mirrors),
    connectTimeout: checkCount(options.connectTimeout, 'options.connectTimeout'),
    stallTimeout: checkCount(options.stallTimeout, 'options.stallTimeout'),
    retries: checkCount(options.retries, 'options.retries', 0),
    concurrency: checkCount(options.concurrency, 'options.concurrency'),
    threads: checkCount(options.threads, 'options.threads'),
    limits: checkLimits(options.limits),
    environment: Object.fromEntries(ENVIRONMENT.map((name) => [name, process.env[name]])),
  };
  if (insecure !== undefined && typeof insecure !== 'boolean' && !Array.isArray(insecure)) {
    throw wrongType('options.insecure', 'of type boolean or an Array of strings', insecure);
  }
  if (options.proxy !== undefined)
    text['proxy'] = options.proxy === null ? null : checkString(options.proxy, 'options.proxy');
  return JSON.stringify({ ...text, ...lockTimeout(options) });
}

/** @internal The options of a pull as the addon takes them. */
export function pullText(options: PullOptions): string {
  checkObject(options, 'options');
  const { policy = 'if-missing', signal } = options;
  if (!['if-missing', 'always', 'never'].includes(policy)) {
    throw wrongType('options.policy', "one of 'if-missing', 'always', 'never'", policy);
  }
  checkSignal(signal);
  return JSON.stringify({
    policy,
    platform: toPlatform(options.platform, 'options.platform'),
    force: checkBoolean(options.force, 'options.force'),
    index: checkBoolean(options.index, 'options.index'),
    allowPlatformMismatch: checkBoolean(options.allowPlatformMismatch, 'options.allowPlatformMismatch'),
    verifyBeforeExtract: checkBoolean(options.verifyBeforeExtract, 'options.verifyBeforeExtract'),
    keepBlobs: checkBoolean(options.keepBlobs, 'options.keepBlobs'),
    checkSpace: checkBoolean(options.checkSpace, 'options.checkSpace'),
    durable: checkBoolean(options.durable, 'options.durable'),
  });
}

/** @internal The part of the options that says how long to wait for locks; nothing where they don't. */
export function lockTimeout(options: { lockTimeout?: number | null }): { lockTimeout?: number | null } {
  if (options.lockTimeout === undefined) return {};
  const limit = options.lockTimeout === null ? null : checkCount(options.lockTimeout, 'options.lockTimeout', 0);
  return { lockTimeout: limit ?? null };
}

/** @internal Ids of users, or a `TypeError`. */
export function checkOwners(owners: unknown, name: string): number[] {
  if (owners === undefined) return [];
  if (!Array.isArray(owners)) throw wrongType(name, 'an Array of user ids', owners);
  return owners.map((owner: unknown, at) => {
    const id = checkCount(owner ?? null, `${name}[${at}]`, 0) ?? 0;
    if (id > 0xffff_fffe) throw wrongType(`${name}[${at}]`, 'a user id', owner);
    return id;
  });
}

/** @internal A directory as an absolute path. */
export function absolute(directory: unknown, name: string): string {
  if (typeof directory !== 'string') throw wrongType(name, 'of type string', directory);
  if (directory === '' || directory.includes('\0')) throw wrongType(name, 'a path', directory);
  return resolve(directory);
}

/** @internal An object, or a `TypeError`. */
export function checkObject(value: unknown, name: string): void {
  if (typeof value !== 'object' || value === null) throw wrongType(name, 'of type object', value);
}

/** @internal A boolean or nothing, or a `TypeError`. */
export function checkBoolean(value: unknown, name: string): boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return value;
  throw wrongType(name, 'of type boolean', value);
}

function checkString(value: unknown, name: string): string | undefined {
  if (value === undefined || typeof value === 'string') return value;
  throw wrongType(name, 'of type string', value);
}

function checkStrings(values: unknown, name: string): string[] {
  if (!Array.isArray(values)) throw wrongType(name, 'an Array of strings', values);
  return values.map((value, at) => checkString(value ?? null, `${name}[${at}]`) ?? '');
}

/** @internal A whole number or nothing, or a `TypeError`. */
export function checkCount(value: unknown, name: string, least = 1): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value;
  throw wrongType(name, `a whole number of at least ${least}`, value);
}

function checkMirrors(mirrors: unknown): Record<string, string[]> | undefined {
  if (mirrors === undefined) return undefined;
  checkObject(mirrors, 'options.mirrors');
  const entries = Object.entries(mirrors as Record<string, unknown>);
  return Object.fromEntries(entries.map(([host, urls]) => [host, checkStrings(urls, `options.mirrors[${host}]`)]));
}

function checkLimits(limits: unknown): Record<string, number | null> {
  if (limits === undefined) return {};
  checkObject(limits, 'options.limits');
  const checked: Record<string, number | null> = {};
  for (const [name, value] of Object.entries(limits as Record<string, unknown>)) {
    if (value === undefined) continue;
    checked[name] = value === null ? null : (checkCount(value, `options.limits.${name}`, 0) ?? null);
  }
  return checked;
}

function pemTexts(certificates: RegistryOptions['caCertificates']): string[] {
  if (certificates === undefined) return [];
  const list = Array.isArray(certificates) ? certificates : [certificates];
  return list.map((pem, at) => {
    if (typeof pem === 'string') return pem;
    if (pem instanceof Uint8Array) return Buffer.from(pem).toString('utf8');
    throw wrongType(`options.caCertificates[${at}]`, 'of type string or an instance of Buffer', pem);
  });
}
