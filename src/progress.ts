/** Progress of a pull, as events. */

/**
 * Something that happened in a pull, told apart by `type`.
 *
 * Byte counts are of compressed bytes, never go back, and are merged to about ten events a second for each layer; where a
 * layer is started anew because its first bytes were damaged, they stand still until they are overtaken. A change of state
 * is told once, after it has happened, and is never left out; `complete` comes last. A cache hit is told in exactly
 * `resolving`, `resolved`, `complete`, and nothing is told of a layer that the cache has.
 *
 * `layerIndex` counts from the bottom layer, which is 0; `digest` is that of the compressed layer, `diffId` of the uncompressed one.
 */
export type PullProgress =
  /** The registry is about to be asked. */
  | { type: 'resolving'; reference: string }
  /**
   * The manifest of the platform is known. `totalDownloadBytes` is what `downloadedBytes` of all layers will add up to:
   * layers that the cache has undamaged are not in it, nor are there events of their bytes. It is exceeded only where a
   * blob in the cache turns out to be damaged.
   */
  | { type: 'resolved'; reference: string; manifestDigest: string; layerCount: number; totalDownloadBytes?: number }
  /** So many of the layer's bytes are here. A download that goes on where another one stopped starts counting there. */
  | {
      type: 'layer-download-progress';
      layerIndex: number;
      digest: string;
      downloadedBytes: number;
      totalBytes?: number;
    }
  /** All bytes of the layer are here, and their digest was checked. */
  | { type: 'layer-download-complete'; layerIndex: number; digest: string; downloadedBytes: number }
  /** Its tree is being made; mostly while it still comes down. */
  | { type: 'layer-extract-started'; layerIndex: number; diffId: string }
  /** So many of its compressed bytes were unpacked. */
  | { type: 'layer-extract-progress'; layerIndex: number; bytesRead: number; totalBytes: number }
  /** Its tree is in the cache under its final name; told after the rename. */
  | { type: 'layer-extract-complete'; layerIndex: number; diffId: string }
  /** A sidecar index was made; told after `layer-extract-complete`. Not told with `index: false`, or where the layer can have none. */
  | { type: 'layer-index-started'; layerIndex: number }
  /** Its sidecar index is in the cache. Told only after `layer-index-started`. */
  | { type: 'layer-index-complete'; layerIndex: number }
  /** Another pull or process holds the lock at `path`; `holder` is its process id where the system tells. */
  | { type: 'lock-waiting'; path: string; holder?: number }
  /** A request failed, for the `attempt`th time since the last progress, and is tried again after `delay` milliseconds. */
  | { type: 'retrying'; host: string; attempt: number; delay: number; reason: string }
  /** The image is in the cache; the last event. */
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
