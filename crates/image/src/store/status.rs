//! What the cache has of a layer: the one answer that pulls, plans and look-ups go by.

use std::{fs, path::Path};

use rustix::fs::fgetxattr;

use crate::{
    error::{ErrorKind, Result},
    fs::is_random_name,
    layer::{Halt, LayerIndex, OVERRIDE_STAT, OverrideStat, Table},
    model::Digest,
    store::{GlobalCache, Inherited, LayerFile, Soundness, TreeFile, TreeName, Walker},
};

/// What the cache has of a layer.
#[derive(Debug)]
pub(crate) struct LayerStatus {
    /// What its blob was verified to be; `None` where nobody did, or the table is damaged.
    pub(crate) table: Option<Table>,
    /// A tree that an image may have as it is, or copy: undamaged, with its index where one is wanted.
    pub(crate) tree: Option<TreeName>,
}

impl LayerStatus {
    /// Fails as in an empty cache where manifest or config claim what the verified blob is not. False where only the blob
    /// can tell: there is no table, or its diff_id is of another algorithm.
    pub(crate) fn check_claims(&self, size: u64, diff_id: &Digest) -> Result<bool> {
        let Some(verified) = self.table.as_ref().map(Table::verified) else { return Ok(false) };
        let mismatch = |what: &str, expected: String, actual: String| {
            Err(ErrorKind::DigestMismatch { what: what.to_owned(), expected, actual }.into())
        };
        let is_told = verified.diff_id.algorithm() == diff_id.algorithm();
        if is_told && verified.diff_id != *diff_id {
            return mismatch("the uncompressed layer", diff_id.to_string(), verified.diff_id.to_string());
        }
        if verified.size != size {
            let bytes = |size: u64| format!("{} of {size} bytes", verified.digest);
            return mismatch("the layer's blob", bytes(size), bytes(verified.size));
        }
        Ok(is_told)
    }

    /// True if nothing of the layer has to be fetched or extracted, but for values that an image inherits.
    pub(crate) fn is_ready(&self) -> bool {
        self.table.is_some() && self.tree.is_some()
    }
}

/// How a tree that is there stands to what an image needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    Absent,
    /// Undamaged, with these values.
    Right,
    /// Nothing is known to be wrong with the tree, and it has these values, but its list or index is damaged, or an index
    /// is wanted and missing.
    Bare,
    /// Undamaged, with the values of another image.
    Other,
    Damaged,
}

impl GlobalCache {
    /// Looks at a layer: a `stat` a file of one tree. Takes no lock.
    pub(crate) fn layer_status(&self, digest: &Digest, index: bool, halt: &Halt) -> Result<LayerStatus> {
        let table = self.table(digest);
        let has_links = table.as_ref().is_some_and(Table::has_cross_layer_links);
        let mut trees = Vec::new();
        if !has_links {
            trees.push(TreeName::base(digest));
        }
        let trust = self.trust()?;
        for tree in &trees {
            self.tree_is_finished(&self.tree(tree, TreeFile::Tree), &trust)?;
        }
        let mut tree = trees.into_iter().find(|tree| self.tree_is_sound(tree, index, halt));
        if tree.is_none() && table.is_some() {
            let mut keyed = self.keyed_trees(digest, halt)?.into_iter();
            tree = keyed.find(|tree| {
                let is_trusted = self.tree_is_finished(&self.tree(tree, TreeFile::Tree), &trust);
                is_trusted.is_ok_and(|finished| finished) && self.tree_is_sound(tree, index, halt)
            });
        }
        halt.check()?;
        Ok(LayerStatus { table, tree })
    }

    /// A layer's table; `None` where there is none, a damaged one, or one of somebody who is not trusted: what it says is
    /// found out again.
    pub(crate) fn table(&self, digest: &Digest) -> Option<Table> {
        let path = self.layer(digest, LayerFile::Table);
        let opened = self.trust().and_then(|trust| Table::open_trusted(&path, &trust));
        let table = opened.inspect_err(|error| tracing::warn!(%error, "a layer's table counts as missing")).ok()??;
        (table.verified().digest == *digest).then_some(table)
    }

    /// The trees of a layer that inherit something, by name alone.
    pub(crate) fn keyed_trees(&self, digest: &Digest, halt: &Halt) -> Result<Vec<TreeName>> {
        let prefix = digest.to_path_safe() + ".";
        let mut trees = Vec::new();
        let Ok(list) = fs::read_dir(self.layers_dir()) else { return Ok(trees) };
        for entry in list.flatten() {
            halt.check()?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let key = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(TreeFile::Tree.suffix()));
            trees.extend(key.filter(|key| is_random_name(key)).map(|key| TreeName::keyed(digest, key)));
        }
        trees.sort();
        Ok(trees)
    }

    /// True if metadata name a tree that no image has: the base of a layer with links to lower layers.
    pub(super) fn is_never_right(&self, tree: &TreeName) -> bool {
        tree.inherited.is_none() && self.table(&tree.digest).is_some_and(|table| table.has_cross_layer_links())
    }

    /// Judges a tree by what an image inherits.
    pub(super) fn judge(&self, tree: &TreeName, inherited: &Inherited, index: bool, halt: &Halt) -> Result<Judged> {
        let path = self.tree(tree, TreeFile::Tree);
        if path.symlink_metadata().is_err() {
            return Ok(Judged::Absent);
        }
        self.tree_is_finished(&path, &self.trust()?)?;
        let soundness = self.tree_soundness(tree, index, halt);
        halt.check()?;
        let is_whole = soundness == Soundness::Whole;
        let judged = if soundness == Soundness::Damaged {
            Judged::Damaged
        } else if tree.inherited.is_some() {
            let list = self.read_list_file(&self.tree(tree, TreeFile::List))?;
            if list == Some(inherited.to_bytes()) { Judged::Right } else { Judged::Bare }
        } else {
            let index = is_whole && index;
            let index = if index { LayerIndex::open(&self.tree(tree, TreeFile::Index)).ok() } else { None };
            values_are(&path, index.as_ref(), inherited, halt)?
        };
        Ok(if judged == Judged::Right && !is_whole { Judged::Bare } else { judged })
    }

    /// True if a base tree has, or had before it was damaged, the values of another image: by its list, or by what stands
    /// in it where it has none.
    pub(super) fn is_made_for_another(&self, tree: &TreeName, inherited: &Inherited, halt: &Halt) -> Result<bool> {
        if *inherited == Inherited::default() {
            return Ok(false);
        }
        match self.read_list_file(&self.tree(tree, TreeFile::List))? {
            Some(list) => Ok(list != inherited.to_bytes()),
            None => {
                let path = self.tree(tree, TreeFile::Tree);
                let is_tree = path.symlink_metadata().is_ok_and(|there| there.is_dir());
                Ok(is_tree && values_are(&path, None, inherited, halt)? == Judged::Other)
            }
        }
    }
}

/// Whether what stands in a base tree, and in its index, are these values: the original rewrites them in place.
fn values_are(path: &Path, index: Option<&LayerIndex>, inherited: &Inherited, halt: &Halt) -> Result<Judged> {
    let mut tree = Walker::new(path)?;
    for (path, stat) in &inherited.directories {
        halt.check()?;
        let Ok(directory) = tree.directory(path) else { return Ok(Judged::Damaged) };
        let mut bytes = [0; 24];
        let read = fgetxattr(directory, OVERRIDE_STAT, &mut bytes[..]).ok();
        let there = read.and_then(|length| OverrideStat::from_bytes(bytes.get(..length)?));
        let indexed = index.is_none_or(|index| {
            index.lookup(path).is_some_and(|row| (row.uid, row.gid, row.mode) == (stat.uid, stat.gid, stat.mode))
        });
        if there != Some(*stat) || !indexed {
            return Ok(Judged::Other);
        }
    }
    Ok(Judged::Right)
}
