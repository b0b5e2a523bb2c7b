/**
 * One 512-byte header of a ustar archive. Pure; the caller has made sure by `fits…` that a value has room,
 * what has none goes into an extended header (pax.ts) and is cut here.
 * Source of the format: POSIX.1-2017, pax, "ustar Interchange Format".
 */

/** Fields of a header, already decided. `name`, `prefix` and `linkName` are raw bytes. */
export interface HeaderFields {
  name: Buffer;
  prefix: Buffer;
  linkName: Buffer;
  typeFlag: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  userName: string;
  groupName: string;
  major: number;
  minor: number;
}

export const BLOCK = 512;
const NAME_BYTES = 100;
const PREFIX_BYTES = 155;
const SLASH = 0x2f;

/** The largest value of a 7-digit octal field (mode, uid, gid, device numbers). */
export const MAX_SMALL = 0o7777777;
/** The largest value of an 11-digit octal field (size, mtime). */
export const MAX_LARGE = 0o77777777777;

export function encodeHeader(fields: HeaderFields): Buffer {
  const header = Buffer.alloc(BLOCK);
  putBytes(header, 0, NAME_BYTES, fields.name);
  putNumber(header, 100, 8, fields.mode);
  putNumber(header, 108, 8, fields.uid);
  putNumber(header, 116, 8, fields.gid);
  putNumber(header, 124, 12, fields.size);
  putNumber(header, 136, 12, fields.mtime);
  header.fill(' ', 148, 156);
  header.write(fields.typeFlag, 156, 1, 'latin1');
  putBytes(header, 157, NAME_BYTES, fields.linkName);
  header.write('ustar\u000000', 257, 'latin1');
  putBytes(header, 265, 31, Buffer.from(fields.userName));
  putBytes(header, 297, 31, Buffer.from(fields.groupName));
  putNumber(header, 329, 8, fields.major);
  putNumber(header, 337, 8, fields.minor);
  putBytes(header, 345, PREFIX_BYTES, fields.prefix);
  header.write(`${octal(checksum(header), 6)}\0 `, 148, 'latin1');
  return header;
}

/** A path as the two fields that hold it, or null when only an extended header can. */
export function splitPath(path: Buffer): { name: Buffer; prefix: Buffer } | null {
  if (path.includes(0)) return null;
  if (path.length <= NAME_BYTES) return { name: path, prefix: Buffer.alloc(0) };
  // The slash between the fields isn't stored; a name of a directory keeps its last slash, so it can't be that one.
  for (let at = Math.min(PREFIX_BYTES, path.length - 2); at > 0; at--) {
    if (path[at] !== SLASH) continue;
    const name = path.subarray(at + 1);
    return name.length <= NAME_BYTES ? { name, prefix: path.subarray(0, at) } : null;
  }
  return null;
}

export function fitsLinkName(target: Buffer): boolean {
  return target.length <= NAME_BYTES && !target.includes(0);
}

/** The sum of all bytes of the header; its own field counts as spaces, which is what it holds at that moment. */
function checksum(header: Buffer): number {
  let sum = 0;
  for (const byte of header) sum += byte;
  return sum;
}

function putBytes(header: Buffer, at: number, room: number, bytes: Buffer): void {
  bytes.copy(header, at, 0, Math.min(room, bytes.length));
}

/** Octal digits and a NUL; what they can't hold is written in base 256, as GNU tar does. */
function putNumber(header: Buffer, at: number, room: number, value: number): void {
  const digits = room - 1;
  if (value >= 0 && value < 8 ** digits) {
    header.write(octal(value, digits), at, 'latin1');
    return;
  }
  let rest = BigInt.asUintN(8 * room, BigInt(value));
  for (let index = room - 1; index >= 0; index--) {
    header[at + index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  header[at] = (header[at] ?? 0) | 0x80;
}

function octal(value: number, digits: number): string {
  return Math.trunc(value).toString(8).padStart(digits, '0');
}
