//! In which order trees are looked at: what a link leads to before the link, since a repair copies from nothing that was not
//! looked at itself.

use std::collections::BTreeSet;

use crate::{
    error::Result,
    model::Digest,
    store::{GlobalCache, Inherited, TreeFile, TreeName},
};

/// The trees, by what they link to.
pub(super) struct Order {
    /// Trees without links to other layers.
    independent: Vec<TreeName>,
    linking: Vec<TreeName>,
    /// The layers that hold what links lead to.
    holders: BTreeSet<Digest>,
}

/// A look at a tree.
pub(super) struct Step<'a> {
    pub(super) tree: &'a TreeName,
    /// Only its own files are looked at, for the sake of those that link to them: its turn is still to come.
    pub(super) looks_ahead: bool,
}

impl Order {
    pub(super) fn of(cache: &GlobalCache, trees: Vec<TreeName>) -> Result<Self> {
        let mut order = Self { independent: Vec::new(), linking: Vec::new(), holders: BTreeSet::new() };
        for tree in trees {
            let list = match tree.inherited {
                Some(_) => cache.read_list_file(&cache.tree(&tree, TreeFile::List))?,
                None => None,
            };
            let inherited = list.and_then(|list| Inherited::parse(&list, "").ok()).unwrap_or_default();
            let holders = inherited.links.into_iter().map(|(_, holder)| holder.digest);
            let holders: BTreeSet<Digest> = holders.filter(|holder| *holder != tree.digest).collect();
            if holders.is_empty() { &mut order.independent } else { &mut order.linking }.push(tree);
            order.holders.extend(holders);
        }
        Ok(order)
    }

    /// The looks, one after the other; with those ahead only where contents are compared.
    pub(super) fn steps(&self, looks_ahead: bool) -> impl Iterator<Item = Step<'_>> {
        let ahead = self.linking.iter().filter(move |_| looks_ahead);
        let independent = self.independent.iter().map(|tree| Step { tree, looks_ahead: false });
        let ahead = ahead.map(|tree| Step { tree, looks_ahead: true });
        independent.chain(ahead).chain(self.linking.iter().map(|tree| Step { tree, looks_ahead: false }))
    }

    /// True if no look ahead is needed: no link leads to this tree's layer.
    pub(super) fn is_proven(&self, tree: &TreeName, proven: &BTreeSet<TreeName>) -> bool {
        proven.contains(tree) || !self.holders.contains(&tree.digest)
    }
}
