/**
 * The fault script: which requests go wrong, and how. This file is its language and its bookkeeping;
 * shape.ts changes answers and transmit.ts misuses the wire.
 */
import type { LoggedRequest } from './request-log.js';
import type { RequestKind } from './routes.js';

/** Which requests a fault hits. Without any field: all. */
export interface FaultMatch {
  /** A kind of request, or an expression for path and query. */
  on?: RequestKind | RegExp;
  method?: string;
  /** A digest that the path must name. */
  digest?: string;
  /** Only requests with (true), without (false), or with a certain Range header. */
  range?: boolean | RegExp;
  /** How many matching requests pass before the first is hit. Default: 0. */
  skip?: number;
  /** How many requests it hits. Default: every one. */
  times?: number;
  /** Flapping: of each `every` matching requests only the first is hit. Default: 1, that is all. */
  every?: number;
}

/**
 * What goes wrong. Bytes count the answer's body; times are milliseconds. The first fault that replaces the answer
 * (`drop`, `status`, `redirect`, `challenge`) wins, and those after it wait for a later request; all others add up. Those that shape a body only meet answers that
 * succeed, so a request that was sent away for its login doesn't use them up.
 */
export type FaultAction =
  /** The answer begins late; `Infinity`: never. */
  | { do: 'latency'; ms: number }
  /** The connection ends before any answer. `reset`: with a reset, not an orderly end (plain HTTP only). */
  | { do: 'drop'; reset?: boolean }
  /** Another status. `retryAfter` is in seconds, or a date; the body is JSON in the protocol's form unless one is given. */
  | {
      do: 'status';
      status: number;
      headers?: Record<string, string | string[]>;
      body?: string;
      retryAfter?: number | Date;
    }
  /** Sent elsewhere: to this Location as it is, or to what the function makes of path and query. Default status: 307. */
  | { do: 'redirect'; to: string | ((path: string) => string); status?: number }
  /** 401 with these WWW-Authenticate headers, as they are; `{realm}` becomes the token server's address. */
  | { do: 'challenge'; challenges: string | string[] }
  /** The connection ends after this many bytes. `reset`: with a reset, which may swallow bytes on their way (plain HTTP only). */
  | { do: 'cut'; after: number; reset?: boolean }
  /** Silence after this many bytes (default: 0, only headers): for `forMs`, or for ever. */
  | { do: 'stall'; after?: number; forMs?: number }
  | { do: 'slow'; bytesPerSecond: number }
  /**
   * A Range request is answered wrongly:
   * `ignore` 200 with everything · `refuse` 416 · `missing` 206 without Content-Range · `wrong-start` 206 whose
   * Content-Range and bytes begin elsewhere · `wrong-total` 206 with another total · `wrong-bytes` 206 whose
   * Content-Range is right and whose bytes come from the start · `nonsense` a Content-Range that doesn't parse
   */
  | {
      do: 'range';
      how: 'ignore' | 'refuse' | 'missing' | 'wrong-start' | 'wrong-total' | 'wrong-bytes' | 'nonsense';
    }
  /** Same length, one bit turned: at this offset of the body. Default: the middle. */
  | { do: 'wrong-bytes'; at?: number }
  /** `by` bytes more (default: 1). Content-Length counts them unless `lies`. */
  | { do: 'too-long'; by?: number; lies?: boolean }
  /** `by` bytes fewer (default: 1), then the connection ends. Content-Length still promises them unless `lies` is false. */
  | { do: 'too-short'; by?: number; lies?: boolean }
  /** The body repeats for ever, in chunks, without a Content-Length. */
  | { do: 'endless' };

/** One line of the script: `{ on: 'blob', do: 'cut', after: 1000, times: 3 }`. */
export type Fault = FaultMatch & FaultAction;

/** A fault at work. */
export interface ActiveFault {
  /** How many requests it has hit. */
  readonly hits: number;
  /** Takes it out of the script. */
  remove(): void;
}

/** The faults of a registry; may be changed at any time. */
export interface Faults {
  /** Adds a line at the end of the script. */
  add(fault: Fault): ActiveFault;
  /** Takes all lines out; requests on their way keep theirs. */
  clear(): void;
}

/** Faults that put another answer in the place of the registry's own: one is enough for a request. */
const REPLACING: ReadonlySet<FaultAction['do']> = new Set(['drop', 'status', 'redirect', 'challenge']);

interface Line {
  readonly fault: Fault;
  seen: number;
  hits: number;
}

export class FaultScript implements Faults {
  #lines: Line[] = [];

  constructor(faults: readonly Fault[] = []) {
    for (const fault of faults) this.add(fault);
  }

  add(fault: Fault): ActiveFault {
    const line: Line = { fault, seen: 0, hits: 0 };
    this.#lines.push(line);
    return {
      get hits() {
        return line.hits;
      },
      remove: () => {
        this.#lines = this.#lines.filter((each) => each !== line);
      },
    };
  }

  clear(): void {
    this.#lines = [];
  }

  /** The faults that hit a request before it is answered; at most one of them replaces the answer. Counts them. */
  early(request: LoggedRequest): Fault[] {
    return this.#take(request, (action, sofar) => {
      if (!REPLACING.has(action)) return action === 'latency';
      return !sofar.some((fault) => REPLACING.has(fault.do));
    });
  }

  /** The faults that hit a successful answer. Counts them. */
  late(request: LoggedRequest): Fault[] {
    return this.#take(request, (action) => action !== 'latency' && !REPLACING.has(action));
  }

  #take(request: LoggedRequest, wanted: (action: FaultAction['do'], sofar: Fault[]) => boolean): Fault[] {
    const hit: Fault[] = [];
    for (const line of this.#lines) {
      const { fault } = line;
      if (!wanted(fault.do, hit) || !matches(fault, request) || !isDue(line)) continue;
      hit.push(fault);
      request.faults.push(fault.do);
    }
    return hit;
  }
}

function matches(fault: Fault, request: LoggedRequest): boolean {
  const { on, method, digest, range } = fault;
  if (on instanceof RegExp ? !test(on, request.path) : on !== undefined && on !== request.kind) return false;
  if (method !== undefined && method.toUpperCase() !== request.method) return false;
  if (digest !== undefined && digest !== request.digest) return false;
  if (fault.do === 'range' && request.range === undefined) return false;
  if (range instanceof RegExp) return request.range !== undefined && test(range, request.range);
  return range === undefined || range === (request.range !== undefined);
}

/** A sticky or global expression would remember where it stopped. */
function test(expression: RegExp, text: string): boolean {
  expression.lastIndex = 0;
  return expression.test(text);
}

function isDue(line: Line): boolean {
  const { skip = 0, times = Infinity, every = 1 } = line.fault;
  const turn = line.seen++ - skip;
  if (turn < 0 || turn % every !== 0 || line.hits >= times) return false;
  line.hits++;
  return true;
}
