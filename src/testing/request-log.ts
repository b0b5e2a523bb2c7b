/** What the registry was asked, and what it sent. A record is entered when the request arrives and grows until its answer ends. */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { RequestKind, Route } from './routes.js';

/** The login that came with a request. `raw` is the whole header, for tests that look for leaks. */
export interface SentAuthorization {
  readonly present: boolean;
  /** As it was sent: `Basic`, `Bearer`. */
  readonly scheme?: string;
  readonly raw?: string;
}

/** One request. */
export interface LoggedRequest {
  /** When it arrived, in milliseconds since 1970. */
  readonly time: number;
  /** Which listener took it: the registry's, or that of the token server on its own port. */
  readonly listener: 'registry' | 'tokens';
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly kind: RequestKind;
  readonly repository?: string;
  /** Tag or digest of a manifest, digest of a blob. */
  readonly reference?: string;
  readonly digest?: string;
  readonly headers: IncomingHttpHeaders;
  /** The Range header. */
  readonly range?: string;
  readonly authorization: SentAuthorization;
  /** The body of a POST to the token server. */
  body?: string;
  /** Status of the answer; 0 until there is one. */
  status: number;
  /** Bytes of the answer's body that were handed to the network. */
  bytesSent: number;
  /** Whether the answer was sent to its end. */
  finished: boolean;
  /** What the fault script did to it, by the faults' `do`. */
  readonly faults: string[];
}

export function recordOf(request: IncomingMessage, route: Route, listener: LoggedRequest['listener']): LoggedRequest {
  const { headers } = request;
  return {
    time: Date.now(),
    listener,
    method: request.method ?? '',
    path: request.url ?? '',
    ...route,
    headers,
    ...(headers.range === undefined ? {} : { range: headers.range }),
    authorization: authorizationOf(headers.authorization),
    status: 0,
    bytesSent: 0,
    finished: false,
    faults: [],
  };
}

function authorizationOf(raw: string | undefined): SentAuthorization {
  if (raw === undefined) return { present: false };
  return { present: true, scheme: raw.split(' ', 1)[0] ?? '', raw };
}
