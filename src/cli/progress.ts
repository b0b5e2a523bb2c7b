/** Progress on stderr: live bars on a terminal, plain lines in a pipe. */
import { MultiBar, type SingleBar } from 'cli-progress';
import type { PullProgress } from '../progress.js';
import { printable } from './text.js';

/** Takes events as they come. */
export interface Watcher {
  tell(event: PullProgress): void;
  end(): void;
}

/** The watcher that fits where stderr goes. */
export function watcher(quiet: boolean): Watcher {
  if (quiet) return { tell: () => undefined, end: () => undefined };
  return process.stderr.isTTY ? new Bars() : new Lines();
}

/** A digest as people recognise it. */
export function short(digest: string): string {
  return digest.replace(/^sha\d+:/, '').slice(0, 12);
}

/** A length in the unit that fits. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit] ?? ''}`;
}

/** One line for each change of state. */
class Lines implements Watcher {
  tell(event: PullProgress): void {
    const line = describe(event);
    if (line !== null) process.stderr.write(`${printable(line)}\n`);
  }

  end(): void {
    /* Nothing is left open. */
  }
}

function describe(event: PullProgress): string | null {
  switch (event.type) {
    case 'resolving':
      return `${event.reference}: resolving`;
    case 'resolved': {
      const bytes = event.totalDownloadBytes ? `, ${size(event.totalDownloadBytes)} to download` : '';
      return `${event.reference}: ${event.manifestDigest}, ${event.layerCount} layers${bytes}`;
    }
    case 'layer-download-complete':
      return `${short(event.digest)}: downloaded ${size(event.downloadedBytes)}`;
    case 'layer-extract-complete':
      return `layer ${event.layerIndex + 1}: extracted`;
    case 'lock-waiting':
      return `waiting for ${event.path}${event.holder === undefined ? '' : `, held by process ${event.holder}`}`;
    case 'retrying':
      return `${event.host}: ${event.reason}; trying again in ${(event.delay / 1000).toFixed(1)} s`;
    case 'complete':
      return `${event.reference}: complete`;
    default:
      return null;
  }
}

/** A bar for each layer that has something to do. */
class Bars implements Watcher {
  readonly #bars = new MultiBar({
    stream: process.stderr,
    format: (options, { progress, value, total }, payload: { name: string; state: string }) => {
      // Fits a narrow terminal: the bar takes what the words leave.
      const words = `${payload.name} ${payload.state} ${size(value)}/${size(total)}`;
      const width = Math.max(4, Math.min(options.barsize ?? 40, (process.stderr.columns || 80) - words.length - 4));
      const filled = Math.round(width * Math.min(1, progress));
      return `${payload.name} [${'#'.repeat(filled)}${'-'.repeat(width - filled)}] ${payload.state} ${size(value)}/${size(total)}`;
    },
    hideCursor: true,
    clearOnComplete: false,
    linewrap: false,
    forceRedraw: false,
    emptyOnZero: true,
    fps: 10,
  });
  readonly #layers = new Map<number, SingleBar>();

  tell(event: PullProgress): void {
    switch (event.type) {
      case 'layer-download-progress':
        this.#update(event.layerIndex, event.digest, event.downloadedBytes, event.totalBytes ?? 0, 'downloading');
        break;
      case 'layer-download-complete':
        this.#update(event.layerIndex, event.digest, event.downloadedBytes, event.downloadedBytes, 'downloaded ');
        break;
      case 'layer-extract-complete':
        this.#layers.get(event.layerIndex)?.update({ state: 'extracted  ' });
        break;
      case 'lock-waiting':
      case 'retrying':
        this.#bars.log(`${printable(describe(event) ?? '')}\n`);
        break;
      default:
        break;
    }
  }

  end(): void {
    this.#bars.stop();
  }

  #update(layer: number, digest: string, value: number, total: number, state: string): void {
    const bar = this.#layers.get(layer) ?? this.#bars.create(total, 0, { name: short(digest), state });
    this.#layers.set(layer, bar);
    bar.setTotal(total);
    bar.update(value, { name: short(digest), state });
  }
}
