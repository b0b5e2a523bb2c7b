//! A base tree that is there before the layer's first table: the original made it, or the table was lost. Nobody has
//! compared it with the blob, and once there is a table a tree is looked at by sizes alone. So it is compared before.

use std::path::Path;

use crate::{
    error::Result,
    fs::remove_file_if_there,
    layer::{Halt, TableFacts},
    store::{
        GlobalCache, TreeFile, TreeName, throw_away,
        verify::tree::{Excused, compare_trees},
    },
};

impl GlobalCache {
    /// Compares the base tree, if there is one, with the layer as it was extracted to `scratch`, and takes it away where
    /// it is not the same; what an image inherits, the attributes of `implied` directories, does not count. False if it
    /// is not the same and somebody uses it: then no table may be published. The layer's lock is held.
    pub(crate) fn prove_base(
        &self,
        facts: &TableFacts,
        implied: &[Vec<u8>],
        scratch: &Path,
        halt: &Halt,
    ) -> Result<bool> {
        let base = TreeName::base(&facts.verified.digest);
        let tree = self.tree(&base, TreeFile::Tree);
        // No image has the base of a layer with links to lower layers.
        if tree.symlink_metadata().is_err() || facts.has_cross_layer_links {
            return Ok(true);
        }
        let excused = Excused { directories: implied.iter().cloned().collect(), ..Excused::default() };
        if compare_trees(&tree, scratch, &excused, halt)?.is_empty() {
            return Ok(true);
        }
        if self.is_in_use(&base.digest)? {
            return Ok(false);
        }
        remove_file_if_there(&self.tree(&base, TreeFile::Index))?;
        throw_away(&tree)?;
        Ok(true)
    }
}
