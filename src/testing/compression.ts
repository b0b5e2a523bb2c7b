/**
 * Packs a layer's tar the ways that layers are packed in the wild. The same input gives the same bytes within one
 * version of Node (its zlib decides the rest). Not meant for speed.
 */
import * as zlib from 'node:zlib';

/**
 * - `gzip`: one member, as most builders write
 * - `gzip-multi-member`: several members one after another, as eStargz and parallel packers write
 * - `zstd`: one frame; needs a Node whose zlib has zstd (22.15 or newer)
 * - `none`: the tar itself
 */
export type Compression = 'gzip' | 'gzip-multi-member' | 'zstd' | 'none';

const GZIP_OS_BYTE = 9;
const GZIP_OS_UNKNOWN = 0xff;
const MEMBERS = 3;

/** Packs `bytes`. `level` is the library's own (gzip 0 to 9, zstd 1 to 22; default: the library's default). */
export function compress(bytes: Buffer, compression: Compression, level?: number): Buffer {
  switch (compression) {
    case 'none':
      return bytes;
    case 'gzip':
      return gzipMember(bytes, level);
    case 'gzip-multi-member': {
      const step = Math.max(1, Math.ceil(bytes.length / MEMBERS));
      const members: Buffer[] = [];
      for (let at = 0; at < bytes.length; at += step) members.push(gzipMember(bytes.subarray(at, at + step), level));
      return Buffer.concat(members);
    }
    case 'zstd':
      return zstdFrame(bytes, level);
  }
}

/** The tar inside a blob that isn't zstd: unpacked when it starts like gzip, else the blob itself. */
export function decompress(blob: Buffer): Buffer {
  if (blob[0] === 0x1f && blob[1] === 0x8b) return zlib.gunzipSync(blob);
  if (blob.length >= 4 && blob.readUInt32LE(0) === 0xfd2fb528) {
    throw new TypeError('a ready blob in zstd needs its `diffId`, or the `tar` or `entries` it was packed from');
  }
  return blob;
}

/** Whether this Node can pack zstd itself. */
export function canPackZstd(): boolean {
  return typeof zstdOf(zlib).zstdCompressSync === 'function';
}

function gzipMember(bytes: Buffer, level?: number): Buffer {
  const member = zlib.gzipSync(bytes, level === undefined ? {} : { level });
  // The one byte of a gzip header that differs from one system to another.
  member[GZIP_OS_BYTE] = GZIP_OS_UNKNOWN;
  return member;
}

interface ZstdFunctions {
  zstdCompressSync?: (bytes: Buffer, options?: { params?: Record<number, number> }) => Buffer;
  constants: { ZSTD_c_compressionLevel?: number };
}

/** The types in use describe a Node older than zstd in zlib. */
function zstdOf(module: unknown): ZstdFunctions {
  return module as ZstdFunctions;
}

function zstdFrame(bytes: Buffer, level?: number): Buffer {
  const { zstdCompressSync, constants } = zstdOf(zlib);
  if (!zstdCompressSync) {
    throw new Error(
      `zstd needs Node 22.15 or newer (this is ${process.version}); pass the packed bytes as \`blob\` instead`,
    );
  }
  const key = constants.ZSTD_c_compressionLevel;
  return zstdCompressSync(bytes, level === undefined || key === undefined ? {} : { params: { [key]: level } });
}
