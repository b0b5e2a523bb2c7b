/**
 * Which question of the distribution protocol a path asks. Pure.
 * Source: OCI Distribution Specification 1.1, "Endpoints".
 */

/** The kinds of requests that faults and the log tell apart. */
export type RequestKind = 'ping' | 'manifest' | 'blob' | 'tags' | 'token' | 'other';

export interface Route {
  readonly kind: RequestKind;
  readonly repository?: string;
  /** A tag or digest for a manifest. */
  readonly reference?: string;
  /** The digest that the path names, if it names one. */
  readonly digest?: string;
}

/** Where the token server answers. */
export const TOKEN_PATH = '/token';

export function routeOf(path: string): Route {
  if (path === '/v2/' || path === '/v2') return { kind: 'ping' };
  if (path === TOKEN_PATH) return { kind: 'token' };
  const [, repository, noun, reference] = /^\/v2\/(.+)\/(manifests|blobs|tags)\/([^/]+)$/.exec(path) ?? [];
  if (repository === undefined || reference === undefined) return { kind: 'other' };
  const digest = reference.includes(':') ? { digest: reference } : {};
  if (noun === 'manifests') return { kind: 'manifest', repository, reference, ...digest };
  if (noun === 'blobs') return { kind: 'blob', repository, reference, ...digest };
  return reference === 'list' ? { kind: 'tags', repository } : { kind: 'other' };
}
