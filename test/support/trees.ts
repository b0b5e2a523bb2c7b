/** An extracted tree as data, for comparison: what the image says (by the attribute) and what the host has. */
import { must } from './programs.js';

export interface TreeEntry {
  /** `[uid, gid, mode, rdev]` of the attribute, in hexadecimal; null where there is none. */
  stat: string | null;
  /** sha256 of the content; null for a directory. */
  content: string | null;
  hostMode: number;
  mtime: string;
  inode: string;
  links: number;
  xattrs: Record<string, string>;
}

// Node has no call for attributes; one Python process reads a whole tree in seconds. Paths are hexadecimal.
const SCRIPT = `
import hashlib, json, os, sys
root = os.fsencode(sys.argv[1])
out = {}
def visit(path, relative):
    st = os.lstat(path)
    names = os.listxattr(path, follow_symlinks=False)
    xattrs = {os.fsdecode(n): os.getxattr(path, n, follow_symlinks=False).hex() for n in names}
    stat = xattrs.pop('user.containers.override_stat', None)
    directory = os.path.isdir(path) and not os.path.islink(path)
    content = None
    if not directory:
        with open(path, 'rb') as f:
            content = hashlib.file_digest(f, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else hashlib.sha256(f.read()).hexdigest()
    out[relative.hex()] = dict(stat=stat, content=content, hostMode=st.st_mode & 0o7777, mtime=str(st.st_mtime_ns),
                               inode=str(st.st_ino), links=st.st_nlink, xattrs=xattrs)
    if directory:
        for name in os.listdir(path):
            if relative == b'' and name == b'.complete':
                continue
            visit(os.path.join(path, name), name if relative == b'' else relative + b'/' + name)
sys.setrecursionlimit(10000)
visit(root, b'')
json.dump(out, sys.stdout)
`;

/** Reads a tree: path (lossy text) → entry. The marker at the root is left out. */
export async function readTree(directory: string): Promise<Map<string, TreeEntry>> {
  const text = await must('python3', ['-c', SCRIPT, directory]);
  const entries = Object.entries(JSON.parse(text) as Record<string, TreeEntry>);
  return new Map(entries.map(([hex, entry]) => [Buffer.from(hex, 'hex').toString('latin1'), entry]));
}

/** Groups of paths that share an inode, sorted. */
export function hardLinkGroups(tree: Map<string, TreeEntry>): string[][] {
  const groups = new Map<string, string[]>();
  for (const [path, entry] of tree) {
    if (entry.content === null || entry.links < 2) continue;
    groups.set(entry.inode, [...(groups.get(entry.inode) ?? []), path]);
  }
  return [...groups.values()].map((paths) => paths.sort()).sort((a, b) => ((a[0] ?? '') < (b[0] ?? '') ? -1 : 1));
}
