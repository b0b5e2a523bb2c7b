/** A layer's sidecar index, and the attribute that says who an entry belongs to. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { wrongType } from './errors.js';
import type { NativeLayerIndex } from './native/binding.js';
import { native, unwrap } from './native/index.js';
import { absolute } from './options.js';

/** An entry of a directory. */
export interface IndexEntry {
  /** The name; of a whiteout, the name it hides. Bytes that are not UTF-8 are replaced: see `rawName`. */
  name: string;
  /** The name's bytes, only where they are not UTF-8. */
  rawName?: Buffer;
  /** The host's inode number; 0 for a whiteout. */
  inode: bigint;
  /** Length in bytes. */
  size: number;
  /** Mode with type bits, as the image says it. */
  mode: number;
  /** Owner, as the image says it. */
  uid: number;
  /** Group, as the image says it. */
  gid: number;
  /** True if it hides the name in lower layers. */
  whiteout: boolean;
  /** True for a directory. */
  isDirectory: boolean;
}

/** A directory. */
export interface IndexDirectory {
  /** Path from the layer's root, without a leading slash; the root is empty. */
  path: string;
  /** True if it hides all that lower layers have in it. */
  opaque: boolean;
  /** What it holds, sorted by the names' bytes. */
  entries: IndexEntry[];
  /** Names it hides that are too long for a whiteout entry. */
  tombstones: string[];
}

type EntryText = Omit<IndexEntry, 'inode' | 'rawName'> & { inode: string; rawName: string | null };

/**
 * A layer's sidecar index, mapped into memory and checked whole when it is opened. Reads what the Rust crate wrote, too.
 *
 * An index is an optimisation: where there is none, read the directory.
 */
export class LayerIndex {
  readonly #native: NativeLayerIndex;

  private constructor(index: NativeLayerIndex) {
    this.#native = index;
  }

  /** @throws {@link ImageError} `ERR_INDEX` on a damaged one, `ERR_IO` if it can't be read. */
  static open(path: string): LayerIndex {
    const index = new (native().NativeLayerIndex)(absolute(path, 'path'));
    unwrap(index.check());
    return new LayerIndex(index);
  }

  /**
   * The directory at a path; `null` if there is none. Blocks while it is read, about a second for 100,000 entries:
   * {@link entries} does not.
   */
  directory(path: string): IndexDirectory | null {
    if (typeof path !== 'string') throw wrongType('path', 'of type string', path);
    const text = unwrap<(Omit<IndexDirectory, 'entries'> & { entries: EntryText[] }) | null>(
      this.#native.directory(path),
    );
    return text === null ? null : { ...text, entries: text.entries.map(toEntry) };
  }

  /**
   * What the directory at a path holds, sorted by the names' bytes, a piece at a time: the event loop goes on in between.
   * Nothing if there is no directory. The index may be closed once the loop was left, early or not.
   *
   * ```ts
   * for await (const { name } of index.entries('usr/bin')) console.log(name);
   * ```
   *
   * @throws {@link ImageError} `ERR_INDEX` when the index is closed meanwhile.
   */
  entries(path: string): AsyncGenerator<IndexEntry, void, void> {
    if (typeof path !== 'string') throw wrongType('path', 'of type string', path);
    return entriesOf(this.#native, path);
  }

  /** The entry at a path; `null` if there is none. The root has none. */
  lookup(path: string): IndexEntry | null {
    if (typeof path !== 'string') throw wrongType('path', 'of type string', path);
    const text = unwrap<EntryText | null>(this.#native.lookup(path));
    return text === null ? null : toEntry(text);
  }

  /** All paths of an inode that has more than one name in the layer, sorted. */
  hardLinks(inode: bigint): string[] {
    if (typeof inode !== 'bigint') throw wrongType('inode', 'of type bigint', inode);
    return unwrap(this.#native.hardLinks(inode.toString()));
  }

  /** Gives the memory back; using the index afterwards throws `ERR_INDEX`. */
  close(): void {
    this.#native.close();
  }
}

/** Entries that are read at once: a millisecond or two. */
const PIECE = 128;

async function* entriesOf(index: NativeLayerIndex, path: string): AsyncGenerator<IndexEntry, void, void> {
  for (let from = 0; ; from += PIECE) {
    const piece = unwrap<EntryText[] | null>(index.entries(path, from, PIECE)) ?? [];
    yield* piece.map(toEntry);
    if (piece.length < PIECE) return;
    await nextTurn();
  }
}

function toEntry({ inode, rawName, ...entry }: EntryText): IndexEntry {
  return { ...entry, inode: BigInt(inode), ...(rawName === null ? {} : { rawName: Buffer.from(rawName, 'hex') }) };
}

/**
 * Who a file of an extracted layer belongs to in the image: the attribute `user.containers.override_stat`. `mode` has the
 * type bits; `rdev` is a device number in glibc's packing. `null` if the file has no such attribute.
 *
 * @throws {@link ImageError} `ERR_IO` if the file can't be read.
 */
export function readStat(path: string): { uid: number; gid: number; mode: number; rdev: number } | null {
  return unwrap(native().readStat(absolute(path, 'path')));
}
