/**
 * One port of the registry: a plain or TLS server on loopback that counts its connections and can be closed at once,
 * whatever its clients are waiting for.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';

/** Key and certificate in PEM. */
export interface TlsOptions {
  key: string | Buffer;
  cert: string | Buffer;
}

/** TCP connections of a registry. */
export interface Connections {
  /** Open now. */
  readonly open: number;
  /** The most that were ever open at a time. */
  readonly peak: number;
  /** All that were ever opened. */
  readonly total: number;
}

/** Where the registry listens. */
export interface ListenerOptions {
  tls?: TlsOptions;
  /** Default: any free one. */
  port?: number;
  /** An address of this machine. Default: 127.0.0.1. */
  address?: string;
}

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** Longer than any test keeps an idle connection, so that the server never closes one just as the client uses it. */
const KEEP_ALIVE_MS = 120_000;

export class Listener {
  readonly #server: ReturnType<typeof createServer> | ReturnType<typeof createTlsServer>;
  readonly #sockets = new Set<Socket>();
  readonly #scheme: string;
  /** `address:port`, an IPv6 address in brackets; kept after the port was freed. */
  host = '';
  #peak = 0;
  #total = 0;

  private constructor(handler: Handler, tls: TlsOptions | undefined) {
    this.#server = tls ? createTlsServer({ key: tls.key, cert: tls.cert }, handler) : createServer(handler);
    this.#scheme = tls ? 'https' : 'http';
    this.#server.keepAliveTimeout = KEEP_ALIVE_MS;
    this.#server.on('connection', (socket: Socket) => {
      this.#count(socket);
    });
    // A client that doesn't trust the certificate, or hangs up halfway, is no failure of the server.
    this.#server.on('tlsClientError', () => undefined);
  }

  static async open(handler: Handler, { tls, port = 0, address = '127.0.0.1' }: ListenerOptions): Promise<Listener> {
    const listener = new Listener(handler, tls);
    const server = listener.#server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, address, () => {
        server.off('error', reject);
        resolve();
      });
    });
    const bound = server.address() as AddressInfo;
    listener.host = `${bound.address.includes(':') ? `[${bound.address}]` : bound.address}:${bound.port}`;
    return listener;
  }

  get url(): string {
    return `${this.#scheme}://${this.host}`;
  }

  get connections(): Connections {
    return { open: this.#sockets.size, peak: this.#peak, total: this.#total };
  }

  /** Ends every connection and frees the port. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => {
        this.#sockets.clear();
        resolve();
      });
      for (const socket of this.#sockets) socket.destroy();
    });
  }

  #count(socket: Socket): void {
    this.#sockets.add(socket);
    this.#total++;
    this.#peak = Math.max(this.#peak, this.#sockets.size);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', () => undefined);
  }
}
