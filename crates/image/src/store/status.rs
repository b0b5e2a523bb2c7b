//! What the cache has of a layer: the one answer that pulls, plans and look-ups go by.

use std::{fs, path::Path};

use rustix::fs::fgetxattr;

use crate::{
    error::Result,
    fs::is_random_name,
    layer::{Halt, LayerIndex, OVERRIDE_STAT, OverrideStat, Table, TableFacts},
    model::Digest,
    store::{GlobalCache, Inherited, LayerFile, Soundness, TreeFile, TreeName, Walker},
};

/// What the cache has of a layer.
#[derive(Debug)]
pub(crate) struct LayerStatus {
    /// What its blob was verified to be; `None` where nobody did, or the table is damaged.
    pub(crate) facts: Option<TableFacts>,
    /// The base tree is undamaged, with its index where one is wanted. Not looked at where it depends on the image which
    /// tree is the right one.
    pub(crate) has_tree: bool,
}

impl LayerStatus {
    /// Fails as in an empty cache where manifest or config claim what the verified blob is not. False where only the blob
    /// can tell: there is no table, or its diff_id is of another algorithm.
    pub(crate) fn check_claims(&self, size: u64, diff_id: &Digest) -> Result<bool> {
        self.facts.as_ref().map_or(Ok(false), |facts| facts.check_claims(size, diff_id))
    }

    /// True if it depends on the layers below which tree an image needs.
    pub(crate) fn inherits(&self) -> bool {
        self.facts.as_ref().is_some_and(TableFacts::inherits)
    }

    /// True if nothing has to be fetched or extracted before the trees of an image are chosen.
    pub(crate) fn is_known(&self) -> bool {
        self.inherits() || self.facts.is_some() && self.has_tree
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
    /// Looks at a layer: a `stat` a file of its tree. Takes no lock.
    pub(crate) fn layer_status(&self, digest: &Digest, index: bool, halt: &Halt) -> Result<LayerStatus> {
        let facts = self.table_facts(digest)?;
        let inherits = facts.as_ref().is_some_and(TableFacts::inherits);
        let base = TreeName::base(digest);
        let is_finished = self.tree_is_finished(&self.tree(&base, TreeFile::Tree), &self.trust()?)?;
        let has_tree = !inherits && is_finished && self.tree_is_sound(&base, index, halt);
        halt.check()?;
        Ok(LayerStatus { facts, has_tree })
    }

    /// True if a pull would not have to fetch the layer: its tree is there or, where that depends on the image, any tree.
    pub(crate) fn has_content(&self, digest: &Digest, index: bool, halt: &Halt) -> Result<bool> {
        let status = self.layer_status(digest, index, halt)?;
        if !status.inherits() {
            return Ok(status.is_known());
        }
        let mut trees = self.keyed_trees(digest, halt)?;
        trees.push(TreeName::base(digest));
        trees.retain(|tree| !self.is_never_right(tree));
        Ok(trees.iter().any(|tree| self.tree_is_sound(tree, index, halt)))
    }

    /// What a layer's blob was verified to be, by the header of its table.
    pub(crate) fn table_facts(&self, digest: &Digest) -> Result<Option<TableFacts>> {
        let facts = TableFacts::read(&self.layer(digest, LayerFile::Table), &self.trust()?)?;
        Ok(facts.filter(|facts| facts.verified.digest == *digest))
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
        let facts = || self.table_facts(&tree.digest).ok().flatten();
        tree.inherited.is_none() && facts().is_some_and(|facts| facts.has_cross_layer_links)
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
            if values_are(&path, index.as_ref(), inherited, halt)? { Judged::Right } else { Judged::Other }
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
                Ok(is_tree && !values_are(&path, None, inherited, halt)?)
            }
        }
    }
}

/// Whether what stands in a base tree, and in its index, are these values: the original rewrites them in place.
fn values_are(path: &Path, index: Option<&LayerIndex>, inherited: &Inherited, halt: &Halt) -> Result<bool> {
    let mut tree = Walker::new(path)?;
    for (path, stat) in &inherited.directories {
        halt.check()?;
        let Ok(directory) = tree.directory(path) else { return Ok(false) };
        let mut bytes = [0; 24];
        let read = fgetxattr(directory, OVERRIDE_STAT, &mut bytes[..]).ok();
        let there = read.and_then(|length| OverrideStat::from_bytes(bytes.get(..length)?));
        let indexed = index.is_none_or(|index| {
            index.lookup(path).is_some_and(|row| (row.uid, row.gid, row.mode) == (stat.uid, stat.gid, stat.mode))
        });
        if there != Some(*stat) || !indexed {
            return Ok(false);
        }
    }
    Ok(true)
}
