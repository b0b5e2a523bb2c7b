/**
 * What a well-behaved registry answers, from the store alone. Pure: no socket, no fault, no login.
 * Source: OCI Distribution Specification 1.1, "Pull"; RFC 9110 §14 for ranges.
 */
import { byteRange, type ByteRange } from './byte-range.js';
import { errorReply, jsonReply, NO_BODY, type Reply } from './reply.js';
import type { Route } from './routes.js';
import type { Store } from './store.js';

/** `range` is the request's Range header. */
export function answer(store: Store, method: string, route: Route, range: string | undefined): Reply {
  if (method !== 'GET' && method !== 'HEAD') {
    return errorReply(405, 'UNSUPPORTED', 'this registry only serves', undefined, { Allow: 'GET, HEAD' });
  }
  const { repository, reference } = route;
  if (route.kind === 'ping') return jsonReply(200, {}, { 'Docker-Distribution-Api-Version': 'registry/2.0' });
  if (repository === undefined) return errorReply(404, 'NOT_FOUND', 'no such page');
  if (!store.has(repository)) {
    return errorReply(404, 'NAME_UNKNOWN', 'repository name not known to registry', { name: repository });
  }
  if (route.kind === 'tags') return jsonReply(200, { name: repository, tags: store.tags(repository) });
  if (route.kind === 'manifest') return manifestReply(store, repository, reference ?? '');
  return blobReply(store, repository, reference ?? '', range);
}

function manifestReply(store: Store, repository: string, reference: string): Reply {
  const manifest = store.manifest(repository, reference);
  if (!manifest) return errorReply(404, 'MANIFEST_UNKNOWN', 'manifest unknown', { name: repository, reference });
  const { content, contentType } = manifest;
  const headers = {
    ...(contentType === null ? {} : { 'Content-Type': contentType }),
    'Docker-Content-Digest': reference.includes(':') ? reference : content.digest,
    ETag: `"${content.digest}"`,
  };
  return { status: 200, headers, body: content.bytes };
}

function blobReply(store: Store, repository: string, digest: string, rangeHeader: string | undefined): Reply {
  const blob = store.blob(repository, digest);
  if (!blob) return errorReply(404, 'BLOB_UNKNOWN', 'blob unknown to registry', { name: repository, digest });
  const headers = {
    'Content-Type': 'application/octet-stream',
    'Docker-Content-Digest': digest,
    ETag: `"${digest}"`,
    'Accept-Ranges': 'bytes',
  };
  const range = byteRange(rangeHeader, blob.size);
  if (range === 'unsatisfiable') return unsatisfiable(blob.size);
  if (range === 'whole') return { status: 200, headers, body: blob.bytes };
  return partial(headers, blob.bytes, range);
}

function partial(headers: Record<string, string>, bytes: Buffer, { from, to }: ByteRange): Reply {
  return {
    status: 206,
    headers: { ...headers, 'Content-Range': `bytes ${from}-${to}/${bytes.length}` },
    body: bytes.subarray(from, to + 1),
  };
}

export function unsatisfiable(size: number): Reply {
  return { status: 416, headers: { 'Content-Range': `bytes */${size}` }, body: NO_BODY };
}
