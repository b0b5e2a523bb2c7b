/** Signals that stop work: checked before anything starts, and listened to once each, however much work they stop. */
import { wrongType } from './errors.js';

/** @internal An AbortSignal or nothing, or a `TypeError`; told by its shape, so that one of another realm is one. */
export function checkSignal(signal: unknown, name = 'options.signal'): AbortSignal | undefined {
  if (signal === undefined) return undefined;
  if (typeof signal === 'object' && signal !== null) {
    const { aborted, addEventListener, removeEventListener } = signal as Partial<AbortSignal>;
    const listens = typeof addEventListener === 'function' && typeof removeEventListener === 'function';
    if (typeof aborted === 'boolean' && listens) return signal as AbortSignal;
  }
  throw wrongType(name, 'an instance of AbortSignal', signal);
}

/** What a signal stops, and our one listener on it: Node warns of more than ten. */
interface Stops {
  all: Set<() => void>;
  listener: () => void;
}

const stopsOf = new WeakMap<AbortSignal, Stops>();

/** @internal Calls `stop` once the signal aborts; answers with what takes that back. Each `stop` is a function of its own. */
export function onAbort(signal: AbortSignal, stop: () => void): () => void {
  let stops = stopsOf.get(signal);
  if (stops === undefined) {
    const all = new Set<() => void>();
    const listener = (): void => {
      for (const each of [...all]) each();
    };
    stops = { all, listener };
    stopsOf.set(signal, stops);
  }
  const { all, listener } = stops;
  if (all.size === 0) signal.addEventListener('abort', listener);
  all.add(stop);
  return () => {
    if (all.delete(stop) && all.size === 0) signal.removeEventListener('abort', listener);
  };
}
