/** Holds an extracted tree and its index against the archive it came from. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { LayerIndex } from 'microsandbox-image';
import type { ArchiveEntry } from './archive.js';
import type { TreeEntry } from './trees.js';

const TYPES: Record<string, number> = { 0: 0o100000, 2: 0o120000, 3: 0o020000, 4: 0o060000, 5: 0o040000, 6: 0o010000 };

/** Fails where a path, owner, mode, device number, time, content or link of the tree isn't the archive's. */
export function assertSameTree(entries: [string, ArchiveEntry][], tree: Map<string, TreeEntry>): void {
  // The last entry of a path counts.
  const wanted = new Map(entries);
  wanted.delete('');
  assert.deepEqual([...tree.keys()].filter((path) => path !== '').sort(), [...wanted.keys()].sort());
  for (const [path, entry] of wanted) {
    const found = tree.get(path);
    assert.ok(found !== undefined, path);
    if (entry.type === '1') {
      assert.equal(found.inode, tree.get(entry.target)?.inode, `${path} is linked to ${entry.target}`);
      continue;
    }
    assert.deepEqual(statOf(found), wantedStat(entry), path);
    assert.equal(found.content, wantedContent(entry), path);
    assert.equal(found.hostMode, entry.type === '5' ? 0o700 : 0o600, path);
    assert.equal(found.mtime, entry.mtime, path);
  }
}

/** The attribute: version, padding, uid, gid, mode, rdev. */
function statOf({ stat }: TreeEntry): unknown {
  const bytes = Buffer.from(stat ?? '', 'hex');
  assert.equal(bytes.length, 20);
  assert.equal(bytes.readUInt32LE(0), 1);
  return [4, 8, 12, 16].map((at) => bytes.readUInt32LE(at));
}

function wantedStat({ type, mode, uid, gid, major, minor }: ArchiveEntry): unknown {
  const rdev = '34'.includes(type) ? ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & 0xfffff00) << 12) : 0;
  return [uid, gid, (TYPES[type] ?? 0) | (type === '2' ? 0o777 : mode), rdev];
}

function wantedContent({ type, target, content }: ArchiveEntry): string | null {
  if (type === '5') return null;
  if (content !== null) return content;
  const bytes = type === '2' ? Buffer.from(target, 'latin1') : Buffer.alloc(0);
  return createHash('sha256').update(bytes).digest('hex');
}

/** Every name of the tree is in the index with its inode, and hard links are listed together. */
export function assertSameIndex(file: string, tree: Map<string, TreeEntry>): void {
  const index = LayerIndex.open(file);
  try {
    for (const [path, { inode, links, content }] of tree) {
      if (path === '' || /[^ -~]/.test(path)) continue;
      const entry = index.lookup(path);
      assert.equal(String(entry?.inode), inode, path);
      if (links > 1 && content !== null) assert.equal(index.hardLinks(BigInt(inode)).length, links, path);
    }
  } finally {
    index.close();
  }
}
