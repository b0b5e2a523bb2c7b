/**
 * Carries a delivery over a connection, as badly as it says: cut, stalled, slow, lying about its length.
 * The only file that writes to a socket. Every wait ends when the other side goes away.
 */
import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { LoggedRequest } from './request-log.js';
import type { Delivery } from './shape.js';

const CHUNK = 256 * 1024;
/** A slow body comes in this many pieces a second. */
const PIECES_PER_SECOND = 20;

/** Sends the answer; `record` learns what was really sent. Resolves when nothing more will be. */
export async function transmit(response: ServerResponse, delivery: Delivery, record: LoggedRequest): Promise<void> {
  const { reply, contentLength } = delivery;
  if (response.destroyed) return;
  record.status = reply.status;
  const bodiless = reply.status === 204 || reply.status === 304;
  const length = contentLength === null || bodiless ? {} : { 'Content-Length': contentLength };
  response.writeHead(reply.status, { ...reply.headers, ...length });
  response.once('finish', () => (record.finished = delivery.ending === 'keep'));
  if (record.method === 'HEAD' || bodiless) response.end();
  else await sendBody(response, delivery, record);
}

/** Ends a connection without an answer, or in the middle of one. */
export function hangUp(socket: Socket | null, reset: boolean): void {
  // A TLS socket can't be reset, only closed.
  if (reset && socket && !('encrypted' in socket)) socket.resetAndDestroy();
  else socket?.destroy();
}

/** Waits, but not longer than the other side does. `Infinity` waits for that alone. False: it has gone. */
export function pause(response: ServerResponse, ms: number): Promise<boolean> {
  if (response.destroyed) return Promise.resolve(false);
  return new Promise((resolve) => {
    const timer = Number.isFinite(ms) ? setTimeout(settle, ms, true) : undefined;
    const gone = () => {
      settle(false);
    };
    response.once('close', gone);
    function settle(here: boolean) {
      clearTimeout(timer);
      response.off('close', gone);
      resolve(here);
    }
  });
}

async function sendBody(response: ServerResponse, delivery: Delivery, record: LoggedRequest): Promise<void> {
  const { cut, bytesPerSecond } = delivery;
  let { stall } = delivery;
  for (;;) {
    const sent = record.bytesSent;
    if (cut && sent >= cut.after) return endConnection(response, cut.reset);
    if (stall && sent >= stall.after) {
      response.flushHeaders();
      if (!(await pause(response, stall.forMs))) return;
      stall = undefined;
    }
    const piece = nextPiece(delivery, sent, Math.min(cut?.after ?? Infinity, stall?.after ?? Infinity) - sent);
    if (piece.length === 0) break;
    record.bytesSent += piece.length;
    if (!(await write(response, piece))) return;
    if (bytesPerSecond && !(await pause(response, (1000 * piece.length) / bytesPerSecond))) return;
  }
  if (delivery.ending === 'destroy') return endConnection(response, false);
  response.end();
}

/** At most `room` bytes from where the body stands; none when it has ended. */
function nextPiece({ reply: { body }, endless, bytesPerSecond }: Delivery, sent: number, room: number): Buffer {
  const from = endless ? sent % body.length : sent;
  const chunk = bytesPerSecond ? Math.min(CHUNK, Math.max(1, Math.ceil(bytesPerSecond / PIECES_PER_SECOND))) : CHUNK;
  return body.subarray(from, from + Math.min(chunk, room));
}

/** False when the other side has gone. */
function write(response: ServerResponse, piece: Buffer): Promise<boolean> {
  if (response.destroyed) return Promise.resolve(false);
  if (response.write(piece)) return Promise.resolve(true);
  return new Promise((resolve) => {
    const drained = () => {
      response.off('close', closed);
      resolve(true);
    };
    const closed = () => {
      response.off('drain', drained);
      resolve(false);
    };
    response.once('drain', drained);
    response.once('close', closed);
  });
}

/** Ends the connection once all that was written has left this process. */
async function endConnection(response: ServerResponse, reset: boolean): Promise<void> {
  const { socket } = response;
  response.flushHeaders();
  await new Promise<void>((resolve) => {
    if (!socket || socket.destroyed) resolve();
    else
      socket.write('', () => {
        resolve();
      });
  });
  hangUp(socket, reset);
}
