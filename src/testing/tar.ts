/**
 * A small tar writer: entries in, archive bytes out, always the same for the same entries.
 *
 * Its job is to describe layers in tests, odd ones included, in a line each. It checks nothing: names that climb out of
 * the root, targets that don't exist, the same path twice are written as they are told. What not even this can say
 * (a broken checksum, a lying size) goes in as raw bytes between the entries. It isn't a packer for a disk.
 */
import { encodePax } from './pax.js';
import { BLOCK, encodeHeader, fitsLinkName, MAX_LARGE, MAX_SMALL, splitPath } from './tar-header.js';

/** What an entry is. `whiteout` hides `path` of the layers below, `opaque` hides all that they have in directory `path`. */
export type TarEntryType =
  'file' | 'directory' | 'symlink' | 'hardlink' | 'whiteout' | 'opaque' | 'character' | 'block' | 'fifo';

/** One entry of a layer. Only `path` is needed: `{ path: 'etc/motd', content: 'hello' }` is a file of mode 0644 owned by root. */
export interface TarEntry {
  /** Written as it is; bytes when the name isn't UTF-8. A directory gets its closing slash. For `whiteout` and `opaque`: the path hidden, without `.wh.`. */
  path: string | Buffer;
  /** Default: `file`. */
  type?: TarEntryType;
  /** Bytes of a file. Default: empty. */
  content?: string | Uint8Array;
  /** Permissions with setuid, setgid and sticky bits. Default: 0755 for directories, 0777 for symbolic links, else 0644. */
  mode?: number;
  /** Default: 0. */
  uid?: number;
  /** Default: 0. */
  gid?: number;
  /** Owner by name, for `uname` and `gname`. Default: empty. */
  userName?: string;
  groupName?: string;
  /** Seconds since 1970, with a fraction if wanted; a string holds more digits than a number (`'1700000000.123456789'`). Default: 0. */
  mtime?: number | string;
  /** Where a symbolic link points, or which path of the archive a hard link names. */
  linkTarget?: string | Buffer;
  /** Device numbers of `character` and `block`. Default: 0. */
  major?: number;
  minor?: number;
  /** Extended attributes by full name (`user.note`, `security.capability`), written as `SCHILY.xattr.<name>`. */
  xattrs?: Record<string, string | Uint8Array>;
  /** More records for the entry's extended header; they win over those made from the fields above. */
  pax?: Record<string, string | Uint8Array>;
}

/** How an archive ends. */
export interface TarOptions {
  /** Blocks of zeros at the end. Default: 2, as the format asks; 0 makes an archive without an end. */
  endBlocks?: number;
  /** Bytes after the end. Default: none. */
  trailing?: Uint8Array;
}

/** Packs entries, in their order. A `Buffer` among them is put in as it is, for headers that no entry can describe. */
export function tar(entries: Iterable<TarEntry | Buffer>, options: TarOptions = {}): Buffer {
  const parts: Uint8Array[] = [];
  for (const entry of entries) {
    if (Buffer.isBuffer(entry)) parts.push(entry);
    else pushEntry(parts, entry);
  }
  parts.push(Buffer.alloc(BLOCK * (options.endBlocks ?? 2)));
  if (options.trailing) parts.push(options.trailing);
  return Buffer.concat(parts);
}

const TYPE_FLAGS: Record<TarEntryType, string> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
  whiteout: '0',
  opaque: '0',
};
const NOTHING = Buffer.alloc(0);

function pushEntry(parts: Uint8Array[], entry: TarEntry): void {
  const type = entry.type ?? 'file';
  const content = type === 'file' ? bytesOf(entry.content ?? NOTHING) : NOTHING;
  const path = storedPath(type, bytesOf(entry.path));
  const linkTarget = linkTargetOf(type, entry);
  const place = splitPath(path);
  const records = recordsOf(entry, { path, linkTarget, size: content.length, placed: place !== null });
  if (records.size > 0) pushExtendedHeader(parts, path, records);
  parts.push(
    encodeHeader({
      name: place?.name ?? path,
      prefix: place?.prefix ?? NOTHING,
      linkName: linkTarget,
      typeFlag: TYPE_FLAGS[type],
      mode: entry.mode ?? defaultMode(type),
      uid: capped(entry.uid ?? 0, MAX_SMALL),
      gid: capped(entry.gid ?? 0, MAX_SMALL),
      size: content.length,
      mtime: capped(Math.floor(Number(entry.mtime ?? 0)), MAX_LARGE),
      userName: entry.userName ?? '',
      groupName: entry.groupName ?? '',
      major: entry.major ?? 0,
      minor: entry.minor ?? 0,
    }),
  );
  pushPadded(parts, content);
}

function storedPath(type: TarEntryType, path: Buffer): Buffer {
  const slash = path.lastIndexOf(0x2f);
  if (type === 'whiteout') {
    return Buffer.concat([path.subarray(0, slash + 1), Buffer.from('.wh.'), path.subarray(slash + 1)]);
  }
  if (type === 'opaque') {
    const inside = path.length === 0 || slash === path.length - 1 ? '' : '/';
    return Buffer.concat([path, Buffer.from(`${inside}.wh..wh..opq`)]);
  }
  if (type === 'directory' && slash !== path.length - 1) return Buffer.concat([path, Buffer.from('/')]);
  return path;
}

function linkTargetOf(type: TarEntryType, entry: TarEntry): Buffer {
  if (type !== 'symlink' && type !== 'hardlink') return NOTHING;
  if (entry.linkTarget === undefined) throw new TypeError(`${type} ${String(entry.path)} needs a linkTarget`);
  return bytesOf(entry.linkTarget);
}

interface Decided {
  path: Buffer;
  linkTarget: Buffer;
  size: number;
  placed: boolean;
}

/** What the header has no room for, in a fixed order, so that equal entries give equal bytes. */
function recordsOf(entry: TarEntry, { path, linkTarget, size, placed }: Decided): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  const put = (key: string, value: string | Uint8Array) => records.set(key, bytesOf(value));
  if (!placed) put('path', path);
  if (!fitsLinkName(linkTarget)) put('linkpath', linkTarget);
  if (size > MAX_LARGE) put('size', String(size));
  if (!fitsField(entry.uid ?? 0, MAX_SMALL)) put('uid', String(entry.uid));
  if (!fitsField(entry.gid ?? 0, MAX_SMALL)) put('gid', String(entry.gid));
  if (!fitsField(Number(entry.mtime ?? 0), MAX_LARGE)) put('mtime', String(entry.mtime));
  for (const [name, value] of Object.entries(entry.xattrs ?? {})) put(`SCHILY.xattr.${name}`, value);
  for (const [key, value] of Object.entries(entry.pax ?? {})) put(key, value);
  return records;
}

function pushExtendedHeader(parts: Uint8Array[], path: Buffer, records: Map<string, Buffer>): void {
  const body = encodePax(records);
  const name = Buffer.concat([Buffer.from('PaxHeaders/'), path]).subarray(0, 99);
  const zero = { uid: 0, gid: 0, mtime: 0, userName: '', groupName: '', major: 0, minor: 0 };
  parts.push(
    encodeHeader({
      ...zero,
      name,
      prefix: NOTHING,
      linkName: NOTHING,
      typeFlag: 'x',
      mode: 0o644,
      size: body.length,
    }),
  );
  pushPadded(parts, body);
}

function pushPadded(parts: Uint8Array[], content: Buffer): void {
  if (content.length === 0) return;
  parts.push(content);
  const over = content.length % BLOCK;
  if (over > 0) parts.push(Buffer.alloc(BLOCK - over));
}

function defaultMode(type: TarEntryType): number {
  if (type === 'directory') return 0o755;
  return type === 'symlink' ? 0o777 : 0o644;
}

function fitsField(value: number, largest: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= largest;
}

function capped(value: number, largest: number): number {
  return Math.min(Math.max(value, 0), largest);
}

function bytesOf(value: string | Uint8Array): Buffer {
  if (typeof value === 'string') return Buffer.from(value);
  return Buffer.isBuffer(value) ? value : Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}
