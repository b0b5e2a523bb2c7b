/** What is in a tar archive, read by Python's tarfile: an opinion that isn't ours, to hold extracted trees against. */
import { must } from './programs.js';

export interface ArchiveEntry {
  /** `0` file, `1` hard link, `2` symlink, `3` character device, `4` block device, `5` directory, `6` pipe. */
  type: string;
  mode: number;
  uid: number;
  gid: number;
  major: number;
  minor: number;
  /** Nanoseconds since 1970. */
  mtime: string;
  /** Of links. */
  target: string;
  /** sha256 of a file's content. */
  content: string | null;
}

// Paths and targets are latin1 for raw bytes, as in trees.ts.
const SCRIPT = `
import hashlib, json, sys, tarfile
from decimal import Decimal
def clean(name):
    parts = [p for p in name.encode('utf-8', 'surrogateescape').split(b'/') if p not in (b'', b'.')]
    return b'/'.join(parts).decode('latin1')
out = []
with tarfile.open(sys.argv[1], 'r:') as archive:
    for m in archive:
        content = hashlib.sha256(archive.extractfile(m).read()).hexdigest() if m.isreg() else None
        target = clean(m.linkname) if m.islnk() else m.linkname.encode('utf-8', 'surrogateescape').decode('latin1')
        mtime = int(Decimal(m.pax_headers.get('mtime', m.mtime)) * 1000000000)
        kind = '0' if m.isreg() else m.type.decode()
        out.append([clean(m.name), dict(type=kind, mode=m.mode, uid=m.uid, gid=m.gid, major=m.devmajor, minor=m.devminor,
                                        mtime=str(mtime), target=target, content=content)])
json.dump(out, sys.stdout)
`;

/** Entries in the archive's order; paths are relative, the root is the empty one. */
export async function readArchive(file: string): Promise<[path: string, entry: ArchiveEntry][]> {
  return JSON.parse(await must('python3', ['-c', SCRIPT, file])) as [string, ArchiveEntry][];
}
