//! The tree of a layer → its table.

use crate::{
    error::Result,
    layer::{
        halt::Halt,
        plan::{Content, EntryId, InodeId, OPAQUE_MARKER, ROOT, Tree, WHITEOUT_PREFIX},
        stat::{S_IFBLK, S_IFCHR, S_IFIFO},
        table::{
            build::{Builder, Record},
            check::check,
            row::{RowKind, Verified},
        },
    },
};

/// Rows after which it is asked whether the job was stopped.
const BETWEEN_CHECKS: usize = 1024;

/// Builds the table of a tree that is complete. Fails with `ERR_ABORTED`, or with `ERR_EXTRACTION` where paths, targets
/// and attributes take more than a table holds.
pub(crate) fn from_tree(tree: &Tree, verified: &Verified, halt: &Halt) -> Result<Vec<u8>> {
    let mut builder = Builder::new(verified);
    let mut first_rows = Vec::new();
    let mut at = 0;
    tree.visit_by_path(&mut |id, path| {
        if at as usize % BETWEEN_CHECKS == 0 {
            halt.check()?;
        }
        // Its directory says so.
        if tree.name(id) == OPAQUE_MARKER {
            return Ok(());
        }
        push(tree, id, path, group(tree, id, at, &mut first_rows), &mut builder)?;
        at += 1;
        Ok(())
    })?;
    let bytes = builder.finish(verified);
    debug_assert!(check(&bytes).is_ok(), "{:?}", check(&bytes).err());
    Ok(bytes)
}

/// The first row of the inode, where it has several names.
fn group(tree: &Tree, id: EntryId, at: u32, first_rows: &mut Vec<Option<u32>>) -> Option<u32> {
    if tree.inode(id).links < 2 {
        return None;
    }
    let InodeId(inode) = tree.inode_of(id);
    if first_rows.len() <= inode as usize {
        first_rows.resize(inode as usize + 1, None);
    }
    Some(*first_rows[inode as usize].get_or_insert(at))
}

fn push(tree: &Tree, id: EntryId, path: &[u8], group: Option<u32>, builder: &mut Builder) -> Result<()> {
    let inode = tree.inode(id);
    let (kind, target) = match &inode.content {
        Content::Directory => (RowKind::Directory, &b""[..]),
        Content::Symlink(target) => (RowKind::Symlink, &target[..]),
        Content::CrossLayer(target) => (RowKind::File, &target[..]),
        Content::Leaf if tree.name(id).starts_with(WHITEOUT_PREFIX) => (RowKind::Whiteout, &b""[..]),
        Content::Leaf => match inode.stat.mode & !0o7777 {
            S_IFCHR => (RowKind::Character, &b""[..]),
            S_IFBLK => (RowKind::Block, &b""[..]),
            S_IFIFO => (RowKind::Fifo, &b""[..]),
            _ => (RowKind::File, &b""[..]),
        },
    };
    builder.push(&Record {
        path,
        kind,
        stat: inode.stat,
        mtime: inode.mtime,
        size: inode.size,
        position: inode.position,
        target,
        group,
        implied: inode.implicit,
        opaque: inode.is_directory() && (id == ROOT || tree.has_children(id)) && is_opaque(tree, id),
        cross_layer: matches!(inode.content, Content::CrossLayer(_)),
        segments: inode.segments(),
        xattrs: inode.xattrs(),
    })
}

fn is_opaque(tree: &Tree, directory: EntryId) -> bool {
    tree.lookup(directory, OPAQUE_MARKER).is_some()
}
