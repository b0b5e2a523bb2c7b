/**
 * The registry for tests: joins store, gate, fault script and listeners, and keeps the log.
 * It speaks the pulling half of the distribution protocol on loopback. It isn't a registry for production:
 * it holds everything in memory, takes no uploads over the network and shows passwords in its log.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { answer } from './answers.js';
import { BasicGate, BearerGate, OPEN_GATE, type AuthOptions, type Gate } from './auth.js';
import type { Content } from './digest.js';
import { FaultScript, type Fault, type Faults } from './faults.js';
import { Listener, type Connections, type ListenerOptions } from './listener.js';
import { errorReply, type Reply } from './reply.js';
import { recordOf, type LoggedRequest } from './request-log.js';
import { routeOf, TOKEN_PATH, type Route } from './routes.js';
import { deliver, replacement, shape, type Delivery } from './shape.js';
import { Store, type Built, type Publishable } from './store.js';
import { hangUp, pause, transmit } from './transmit.js';

/** What the registry serves, and how. */
export interface RegistryOptions extends ListenerOptions {
  /** `repository:tag` → what it names. Default: nothing; `push` adds more. */
  images?: Record<string, Publishable>;
  /** Default: none; `faults.add` adds more. */
  faults?: Fault[];
  /** Default: anyone may pull anything. */
  auth?: AuthOptions;
}

/** What `push` made. */
export interface Pushed {
  /** The full name to pull it by: `127.0.0.1:40123/app:1`. */
  readonly reference: string;
  /** The digest of its manifest. */
  readonly digest: string;
  readonly image: Built;
}

/** A registry that runs in this process until it's closed. */
export interface TestRegistry extends AsyncDisposable {
  /** `http://127.0.0.1:40123`, or `https://…`. */
  readonly url: string;
  /** `127.0.0.1:40123`: the part of a reference before the first slash. */
  readonly host: string;
  /** The token server's address, with its path; empty without tokens. */
  readonly tokenUrl: string;
  /** All requests in the order they arrived. May be emptied: `requests.length = 0`. */
  readonly requests: LoggedRequest[];
  /** Connections to the registry's own port. */
  readonly connections: Connections;
  readonly faults: Faults;
  /** The full name of an image here: `reference('app:1')` is `127.0.0.1:40123/app:1`. */
  reference(name: string): string;
  /** Stores an image under `repository:tag` (default tag: `latest`; `repository@digest` stores it without a tag). */
  push(name: string, image: Publishable): Pushed;
  /** Takes away a tag, or by `repository@digest` a manifest. False: it wasn't there. */
  remove(name: string): boolean;
  /** Serves a blob, under its own digest unless another is given. */
  addBlob(repository: string, bytes: Buffer, digest?: string): Content;
  /** False: it wasn't there. */
  removeBlob(repository: string, digest: string): boolean;
  /** Makes all tokens bad that were handed out so far. */
  expireTokens(): void;
  /** Ends every connection, also those that are waiting, and frees the ports. May be called twice. */
  close(): Promise<void>;
}

/**
 * Starts a registry on loopback.
 *
 * ```ts
 * const registry = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'etc/motd', content: 'hello' }]] } } });
 * await pull(registry.reference('app:1'));
 * await registry.close();
 * ```
 *
 * Rejects when the port is taken or a certificate can't be read.
 */
export async function startRegistry(options: RegistryOptions = {}): Promise<TestRegistry> {
  const registry = new Registry(options);
  await registry.open();
  return registry;
}

const MAX_FORM_BYTES = 64 * 1024;

class Registry implements TestRegistry {
  readonly requests: LoggedRequest[] = [];
  readonly faults: FaultScript;
  readonly #options: RegistryOptions;
  readonly #store = new Store();
  readonly #gate: Gate;
  #listener?: Listener;
  #tokenListener?: Listener;
  #closed?: Promise<void>;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.faults = new FaultScript(options.faults);
    this.#gate = gateFor(options.auth, () => this.tokenUrl);
    for (const [name, image] of Object.entries(options.images ?? {})) this.#store.push(name, image);
  }

  async open(): Promise<void> {
    const { auth } = this.#options;
    this.#listener = await Listener.open(this.#handler('registry'), this.#options);
    if (auth?.type !== 'bearer' || !auth.separateHost) return;
    this.#tokenListener = await Listener.open(this.#handler('tokens'), { ...this.#options, port: 0 });
  }

  get #open(): Listener {
    if (!this.#listener) throw new Error('the registry is not open');
    return this.#listener;
  }

  get url(): string {
    return this.#open.url;
  }

  get host(): string {
    return this.#open.host;
  }

  get tokenUrl(): string {
    return this.#gate instanceof BearerGate ? `${(this.#tokenListener ?? this.#open).url}${TOKEN_PATH}` : '';
  }

  get connections(): Connections {
    return this.#open.connections;
  }

  reference(name: string): string {
    return `${this.host}/${name}`;
  }

  push(name: string, image: Publishable): Pushed {
    const local = name.startsWith(`${this.host}/`) ? name.slice(this.host.length + 1) : name;
    const built = this.#store.push(local, image);
    return { reference: this.reference(local), digest: built.digest, image: built };
  }

  remove(name: string): boolean {
    return this.#store.remove(name);
  }

  addBlob(repository: string, bytes: Buffer, digest?: string): Content {
    return this.#store.addBlob(repository, bytes, digest);
  }

  removeBlob(repository: string, digest: string): boolean {
    return this.#store.removeBlob(repository, digest);
  }

  expireTokens(): void {
    if (this.#gate instanceof BearerGate) this.#gate.office.expireAll();
  }

  close(): Promise<void> {
    this.#closed ??= Promise.all([this.#listener?.close(), this.#tokenListener?.close()]).then(() => undefined);
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #handler(listener: LoggedRequest['listener']) {
    return (request: IncomingMessage, response: ServerResponse): void => {
      const route = routeOf(pathOf(request));
      const record = recordOf(request, route, listener);
      this.requests.push(record);
      this.#serve(request, response, route, record).catch((error: unknown) => {
        // A fault of this file, or of a function that the user gave: the client must not wait for ever.
        response.destroy(error instanceof Error ? error : new Error(String(error)));
      });
    };
  }

  async #serve(request: IncomingMessage, response: ServerResponse, route: Route, record: LoggedRequest): Promise<void> {
    const faults = this.faults.early(record);
    for (const fault of faults) {
      if (fault.do === 'latency' && !(await pause(response, fault.ms))) return;
      if (fault.do === 'drop') {
        hangUp(request.socket, fault.reset ?? false);
        return;
      }
    }
    const body = await bodyOf(request);
    if (route.kind === 'token' && record.method === 'POST') record.body = body;
    const replaced = replacement(faults, record.path, this.tokenUrl);
    await transmit(response, replaced ? deliver(replaced) : this.#answer(route, record), record);
  }

  #answer(route: Route, record: LoggedRequest): Delivery {
    const reply = this.#reply(route, record, record.range);
    if (reply.status >= 300 || record.method === 'HEAD') return deliver(reply);
    return shape(reply, this.faults.late(record), () => this.#reply(route, record, undefined));
  }

  #reply(route: Route, record: LoggedRequest, range: string | undefined): Reply {
    if (route.kind === 'token') return this.#tokenReply(record);
    return this.#gate.check(record.headers, route) ?? answer(this.#store, record.method, route, range);
  }

  #tokenReply({ method, path, body, headers: { authorization } }: LoggedRequest): Reply {
    if (!(this.#gate instanceof BearerGate)) return errorReply(404, 'NOT_FOUND', 'no such page');
    const query = new URLSearchParams(method === 'POST' ? body : new URL(path, 'http://registry').searchParams);
    return this.#gate.office.answer({ method, query, authorization });
  }
}

function gateFor(auth: AuthOptions | undefined, tokenUrl: () => string): Gate {
  if (auth === undefined) return OPEN_GATE;
  return auth.type === 'basic' ? new BasicGate(auth) : new BearerGate(auth, tokenUrl);
}

/** The path without its query, with what was percent-encoded in the clear. */
function pathOf(request: IncomingMessage): string {
  const [path = ''] = (request.url ?? '').split('?', 1);
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** The request's body, cut at 64 KiB; empty when there is none. */
async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    if (size < MAX_FORM_BYTES) parts.push(part);
    size += part.length;
  }
  return Buffer.concat(parts).subarray(0, MAX_FORM_BYTES).toString();
}
