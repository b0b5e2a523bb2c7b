/** Progress of a pull, as events. */

/**
 * Something that happened in a pull, told apart by `type`.
 *
 * Byte counts are of compressed bytes, never go back, and are merged to about ten events a second for each layer; a change of
 * state is never left out, and `complete` comes last. A cache hit is told in exactly `resolving`, `resolved`, `complete`.
 *
 * `totalDownloadBytes` is what `downloadedBytes` of all layers will add up to: layers that the cache has are not in it, nor are
 * there events of their bytes. A download that goes on where another one stopped starts counting there.
 */
export type PullProgress =
  | { type: 'resolving'; reference: string }
  | { type: 'resolved'; reference: string; manifestDigest: string; layerCount: number; totalDownloadBytes?: number }
  | {
      type: 'layer-download-progress';
      layerIndex: number;
      digest: string;
      downloadedBytes: number;
      totalBytes?: number;
    }
  | { type: 'layer-download-complete'; layerIndex: number; digest: string; downloadedBytes: number }
  | { type: 'layer-extract-started'; layerIndex: number; diffId: string }
  | { type: 'layer-extract-progress'; layerIndex: number; bytesRead: number; totalBytes: number }
  | { type: 'layer-extract-complete'; layerIndex: number; diffId: string }
  | { type: 'layer-index-started'; layerIndex: number }
  | { type: 'layer-index-complete'; layerIndex: number }
  /** Another pull or process holds a lock; `holder` is its process id where the system tells. */
  | { type: 'lock-waiting'; path: string; holder?: number }
  /** A request failed and is tried again after `delay` milliseconds. */
  | { type: 'retrying'; host: string; attempt: number; delay: number; reason: string }
  | { type: 'complete'; reference: string; layerCount: number };

/** @internal The part of the addon's task that tells events. */
export interface EventSource {
  nextEvents(): Promise<string>;
  cancel(): void;
}

/** @internal The events of a task; whoever leaves the loop early stops the work. */
export async function* eventsOf(task: EventSource): AsyncGenerator<PullProgress, void, void> {
  let finished = false;
  try {
    for (let batch; (batch = await task.nextEvents()) !== '';) yield* JSON.parse(batch, dropNull) as PullProgress[];
    finished = true;
  } finally {
    if (!finished) task.cancel();
  }
}

/** What is not known is left out, not null. */
function dropNull(_key: string, value: unknown): unknown {
  return value === null ? undefined : value;
}
