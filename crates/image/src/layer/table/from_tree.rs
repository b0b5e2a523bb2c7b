//! The tree of a layer → its table.

use crate::{
    error::Result,
    layer::{
        halt::Halt,
        plan::{EntryId, NO_MARK, NodeKind, OPAQUE_MARKER, Tree, WHITEOUT_PREFIX, visit_by_path},
        sidecar::Sidecar,
        spill::SpillHome,
        stat::{S_IFBLK, S_IFCHR, S_IFIFO},
        table::{
            build::{Builder, Record},
            row::{RowKind, Verified},
        },
    },
};

/// Builds the table of a tree that is complete. Fails with `ERR_ABORTED`, or with `ERR_EXTRACTION` where paths, targets
/// and attributes take more than a table holds.
pub(crate) fn from_tree(tree: &Tree, verified: &Verified, home: &SpillHome, halt: &Halt) -> Result<Sidecar> {
    let mut builder = Builder::new(verified, home)?;
    let mut at = 0;
    visit_by_path(tree, halt, |id, path| {
        // Its directory says so.
        if tree.name(id) == OPAQUE_MARKER {
            return Ok(());
        }
        push(tree, id, path, at, &mut builder)?;
        at += 1;
        Ok(())
    })?;
    let table = builder.finish(verified, halt)?;
    #[cfg(debug_assertions)]
    if table.len() < 16 << 20 {
        let bytes = table.to_vec().expect("it was just written");
        let checked = super::check::check(&bytes);
        assert!(checked.is_ok(), "{:?}", checked.err());
    }
    Ok(table)
}

fn push(tree: &Tree, id: EntryId, path: &[u8], at: u32, builder: &mut Builder) -> Result<()> {
    let inode = tree.inode(id)?;
    let kind = match inode.kind {
        NodeKind::Directory => RowKind::Directory,
        NodeKind::Symlink => RowKind::Symlink,
        NodeKind::CrossLayer => RowKind::File,
        NodeKind::Leaf if tree.name(id).starts_with(WHITEOUT_PREFIX) => RowKind::Whiteout,
        NodeKind::Leaf => match inode.stat.mode & !0o7777 {
            S_IFCHR => RowKind::Character,
            S_IFBLK => RowKind::Block,
            S_IFIFO => RowKind::Fifo,
            _ => RowKind::File,
        },
    };
    let mut group = None;
    if inode.links > 1 && kind != RowKind::Directory {
        if inode.mark == NO_MARK {
            tree.update(id, |inode| inode.mark = at)?;
        }
        group = Some(if inode.mark == NO_MARK { at } else { inode.mark });
    }
    let (target, details) = (tree.target(&inode)?, tree.details(&inode)?);
    builder.push(&Record {
        path,
        kind,
        stat: inode.stat,
        mtime: inode.mtime,
        size: inode.size,
        position: inode.position,
        target: &target,
        group,
        implied: inode.implicit && kind == RowKind::Directory,
        opaque: kind == RowKind::Directory && tree.lookup(id, OPAQUE_MARKER).is_some(),
        cross_layer: inode.kind == NodeKind::CrossLayer,
        segments: &details.segments,
        xattrs: &details.xattrs,
    })
}
