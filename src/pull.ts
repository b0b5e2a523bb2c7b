/** A pull: a promise of its result and an async iterable of its events. */
import type { NativeTask } from './native/binding.js';
import { unwrap } from './native/index.js';
import { answerQuestions, type CredentialCallback } from './credentials.js';
import type { Platform } from './platform.js';
import { eventsOf, type PullProgress } from './progress.js';
import { onAbort } from './signal.js';

/** What a container of the image runs. */
export interface ImageConfig {
  /** Environment, `KEY=VALUE`. */
  env: string[];
  /** Default arguments: what follows `entrypoint`, or the program itself where there is none. */
  cmd?: string[];
  /** The program that is run, and its first arguments. */
  entrypoint?: string[];
  /** The directory it is started in, a path of the image. */
  workingDir?: string;
  /** Who it runs as: `uid`, `uid:gid`, `name` or `name:group`, names being those of the image's `/etc/passwd` and `/etc/group`. */
  user?: string;
  /** Ports it listens on, as `8080/tcp`, sorted. */
  exposedPorts: string[];
  /** Paths that are meant to be mounted over, sorted. */
  volumes: string[];
  /** Labels of the image, such as `org.opencontainers.image.source`. */
  labels: Record<string, string>;
  /** The signal that asks it to end: `SIGTERM` or a number. */
  stopSignal?: string;
}

/**
 * What could not be kept as it came, by code: how often, and the first paths.
 *
 * Codes: `xattr-written-down` (as `user.containers.xattr.<name>`), `xattr-dropped`, `special-as-file` (a device or pipe as
 * an empty file with its type in the attribute), `entry-replaced`, `aufs-ignored`, `type-ignored`, `whiteout-absorbed`,
 * `link-to-lower-layer`, `link-copied` (the host had no room for one more link to a file), `index-omitted`.
 */
export type LayerReport = Record<string, { count: number; paths: string[] }>;

/** A pulled image. */
export interface PullResult {
  /** Canonical reference. */
  reference: string;
  /** Platform of the manifest. */
  platform: Platform;
  /** Digest of the platform's manifest, of the bytes as served. */
  manifestDigest: string;
  /** Digest of the index the manifest was chosen from. */
  indexDigest?: string;
  /** Digest of the image config. */
  configDigest: string;
  /** What a container runs. */
  config: ImageConfig;
  /** Extracted trees: absolute directories, bottom layer first. Owners and modes are in an attribute: see {@link readStat}. */
  layers: string[];
  /** The sidecar index of each of `layers`; `null` where none was asked for, or none could be made. */
  indexes: (string | null)[];
  /** Digests of the compressed layers, bottom first. */
  layerDigests: string[];
  /** Digests of the uncompressed layers, bottom first. */
  diffIds: string[];
  /** True if nothing was downloaded. */
  cached: boolean;
  /** What could not be kept as it came, by layer digest. */
  report: Record<string, LayerReport>;
}

/**
 * A pull at work. Await it for the result, iterate it for the events, or both.
 *
 * ```ts
 * const pull = registry.pull('alpine');
 * for await (const event of pull) console.log(event.type);
 * const { layers } = await pull;
 * ```
 * Leaving the loop early (`break`, `throw`) stops the pull: it then rejects with `ERR_ABORTED`. The events can be read
 * once. Not iterating costs nothing.
 */
export interface Pull extends Promise<PullResult>, AsyncIterable<PullProgress> {}

/** @internal Starts a task and binds it to a signal. Rejects with the signal's own reason. */
export function runTask<T>(
  start: () => NativeTask,
  signal: AbortSignal | undefined,
  askForCredential: CredentialCallback | undefined,
): { result: Promise<T>; events: () => AsyncGenerator<PullProgress, void, void> } {
  if (signal?.aborted === true) {
    const result = Promise.reject<T>(signal.reason);
    return { result, events: noEvents };
  }
  const task = start();
  const forget =
    signal === undefined
      ? undefined
      : onAbort(signal, () => {
          task.cancel();
        });
  if (askForCredential !== undefined) void answerQuestions(task, askForCredential);
  const result = task.result().then((text) => {
    forget?.();
    try {
      return unwrap<T>(text);
    } catch (error) {
      if (signal?.aborted === true && (error as { code?: unknown }).code === 'ERR_ABORTED') throw signal.reason;
      throw error;
    }
  });
  return { result, events: () => eventsOf(task) };
}

async function* noEvents(): AsyncGenerator<PullProgress, void, void> {
  /* There was nothing to tell. */
}

/** @internal The promise with the events on it. */
export function toPull(task: {
  result: Promise<PullResult>;
  events: () => AsyncGenerator<PullProgress, void, void>;
}): Pull {
  let events: AsyncGenerator<PullProgress, void, void> | undefined;
  return Object.assign(task.result, {
    [Symbol.asyncIterator](): AsyncIterator<PullProgress> {
      events ??= task.events();
      // Whoever only iterates learns of a failure at the end of the loop.
      return withFailure(events, task.result);
    },
  });
}

async function* withFailure(
  events: AsyncGenerator<PullProgress, void, void>,
  result: Promise<unknown>,
): AsyncGenerator<PullProgress, void, void> {
  let left = true;
  result.catch(() => undefined);
  try {
    yield* events;
    left = false;
  } finally {
    if (left) await events.return();
  }
  await result;
}
