/** Applies faults to an answer while it is still data. Pure: the same answer and faults give the same delivery. */
import { unsatisfiable } from './answers.js';
import type { Fault } from './faults.js';
import { errorReply, type Reply } from './reply.js';

/** An answer and how it is to be carried. */
export interface Delivery {
  readonly reply: Reply;
  /** What Content-Length says; null: none, in chunks. */
  readonly contentLength: number | null;
  /** How the answer ends: as it should, or with the connection. */
  readonly ending: 'keep' | 'destroy';
  readonly endless: boolean;
  readonly cut?: { after: number; reset: boolean };
  readonly stall?: { after: number; forMs: number };
  readonly bytesPerSecond?: number;
}

export function deliver(reply: Reply): Delivery {
  return { reply, contentLength: reply.body.length, ending: 'keep', endless: false };
}

/** The answer that replaces the registry's own, if a fault brings one. */
export function replacement(faults: readonly Fault[], path: string, realm: string): Reply | undefined {
  for (const fault of faults) {
    if (fault.do === 'status') return statusReply(fault);
    if (fault.do === 'redirect') {
      const location = typeof fault.to === 'string' ? fault.to : fault.to(path);
      return { status: fault.status ?? 307, headers: { Location: location }, body: Buffer.alloc(0) };
    }
    if (fault.do === 'challenge') {
      const challenges = [fault.challenges].flat().map((text) => text.replaceAll('{realm}', realm));
      return errorReply(401, 'UNAUTHORIZED', 'authentication required', undefined, { 'WWW-Authenticate': challenges });
    }
  }
  return undefined;
}

/** `whole` gives the answer there would be without a Range header. */
export function shape(reply: Reply, faults: readonly Fault[], whole: () => Reply): Delivery {
  let delivery = deliver(reply);
  for (const fault of faults) {
    if (fault.do === 'range') delivery = deliver(wrongRange(delivery.reply, fault.how, whole));
  }
  for (const fault of faults) delivery = shapeOnce(delivery, fault);
  return delivery;
}

function shapeOnce(delivery: Delivery, fault: Fault): Delivery {
  const { reply } = delivery;
  const { length } = reply.body;
  switch (fault.do) {
    case 'cut':
      return { ...delivery, cut: { after: fault.after, reset: fault.reset ?? false } };
    case 'stall':
      return { ...delivery, stall: { after: fault.after ?? 0, forMs: fault.forMs ?? Infinity } };
    case 'slow':
      return { ...delivery, bytesPerSecond: fault.bytesPerSecond };
    case 'wrong-bytes':
      return { ...delivery, reply: { ...reply, body: oneBitTurned(reply.body, fault.at ?? length >> 1) } };
    case 'too-long': {
      const body = Buffer.concat([reply.body, Buffer.alloc(fault.by ?? 1, 'x')]);
      const lies = fault.lies ?? false;
      const contentLength = lies ? length : body.length;
      return { ...delivery, reply: { ...reply, body }, contentLength, ending: lies ? 'destroy' : 'keep' };
    }
    case 'too-short': {
      const body = reply.body.subarray(0, Math.max(0, length - (fault.by ?? 1)));
      const lies = fault.lies ?? true;
      const contentLength = lies ? length : body.length;
      return { ...delivery, reply: { ...reply, body }, contentLength, ending: lies ? 'destroy' : 'keep' };
    }
    case 'endless':
      return { ...delivery, contentLength: null, endless: length > 0 };
    default:
      return delivery;
  }
}

function wrongRange(reply: Reply, how: Extract<Fault, { do: 'range' }>['how'], whole: () => Reply): Reply {
  const all = whole();
  if (how === 'ignore') return all;
  if (how === 'refuse') return unsatisfiable(all.body.length);
  const { 'Content-Range': given, ...others } = reply.headers;
  const [, from = 0, to = 0, total = 0] = (/^bytes (\d+)-(\d+)\/(\d+)$/.exec(String(given)) ?? []).map(Number);
  const answer = (contentRange: string, body = reply.body): Reply => ({
    status: 206,
    headers: { ...others, 'Content-Range': contentRange },
    body,
  });
  switch (how) {
    case 'missing':
      return { status: 206, headers: others, body: reply.body };
    case 'wrong-start': {
      // A neighbour of the true start: one byte earlier, or later where there is none earlier.
      const start = from > 0 ? from - 1 : 1;
      return answer(`bytes ${start}-${to}/${total}`, all.body.subarray(start, to + 1));
    }
    case 'wrong-total':
      return answer(`bytes ${from}-${to}/${total + 1}`);
    case 'wrong-bytes':
      return answer(String(given), all.body.subarray(0, reply.body.length));
    case 'nonsense':
      return answer('bytes from here to there');
  }
}

function oneBitTurned(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  if (at < copy.length) copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}

function statusReply(fault: Extract<Fault, { do: 'status' }>): Reply {
  const { retryAfter, body, status } = fault;
  const after = retryAfter instanceof Date ? retryAfter.toUTCString() : retryAfter;
  const headers = { ...(after === undefined ? {} : { 'Retry-After': String(after) }), ...fault.headers };
  if (body !== undefined) return { status, headers, body: Buffer.from(body) };
  return errorReply(status, CODES[status] ?? 'UNKNOWN', `the fault script says ${status}`, undefined, headers);
}

const CODES: Partial<Record<number, string>> = {
  401: 'UNAUTHORIZED',
  403: 'DENIED',
  404: 'NAME_UNKNOWN',
  429: 'TOOMANYREQUESTS',
  503: 'UNAVAILABLE',
};
