//! Hard links: to what is there, to what is still to come, and to what only a lower layer has.

use crate::{
    error::Result,
    layer::{
        plan::{
            inode::{Inode, NodeKind},
            place::{Planner, Step, empty_file},
            resolve::{self, unusable},
            tree::EntryId,
            whiteout,
        },
        report::Note,
    },
};

/// Rounds in which hard links find their targets. Real archives need one; a chain that needs more is made on purpose
/// and would cost the square of its length.
const MAX_ROUNDS: usize = 32;

/// A hard link whose target is not in the layer (yet).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitingLink {
    pub(crate) path: Vec<u8>,
    pub(crate) target: Vec<u8>,
    /// What stood at the path when the link came: it gives way, a later entry does not.
    displaces: Option<EntryId>,
}

impl Planner {
    pub(super) fn place_link(
        &mut self,
        path: &[u8],
        target: &[u8],
        walked: resolve::Walked,
        name: &[u8],
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let Some(target_entry) = resolve::find(&self.tree, target, &self.limits)? else {
            let there = walked.missing.is_empty().then(|| self.tree.lookup(walked.directory, name)).flatten();
            self.keep_text(path.len() + target.len(), path)?;
            self.waiting.push(WaitingLink { path: path.to_vec(), target: target.to_vec(), displaces: there });
            return Ok(());
        };
        if self.tree.is_directory(target_entry) {
            return Err(unusable(path, "it is a hard link to a directory"));
        }
        if self.tree.name(target_entry).starts_with(whiteout::PREFIX) {
            return Err(unusable(path, "it is a hard link to a whiteout"));
        }
        // What stands in the way of a parent could be the target itself.
        if walked.in_the_way == Some(target_entry) {
            return Err(unusable(path, "it is a hard link that lies below its own target"));
        }
        let parent = self.make_parents(walked, path, steps)?;
        self.link_in(parent, name, path, target_entry, steps)
    }

    fn link_in(
        &mut self,
        parent: EntryId,
        name: &[u8],
        path: &[u8],
        target: EntryId,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let inode = self.tree.inode_of(target)?;
        if let Some(there) = self.tree.lookup(parent, name) {
            if self.tree.inode_of(there)? == inode {
                return Ok(());
            }
            if self.tree.is_within(target, there) {
                return Err(unusable(path, "it is a hard link in place of a directory that holds its own target"));
            }
            self.report.note(Note::EntryReplaced, path);
            self.remove(there, steps)?;
        }
        let entry = self.tree.add_link(parent, name, inode)?;
        steps.push(Step::Link { entry, target });
        Ok(())
    }

    /// After the last entry: links whose target came later are made; those that remain name a file of a lower layer and
    /// get an empty file as a stand-in, to be filled when the layers are put together.
    pub(crate) fn finish_links(&mut self, steps: &mut Vec<Step>) -> Result<Vec<WaitingLink>> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut reversed = false;
        for round in 0.. {
            let before = waiting.len();
            if round == MAX_ROUNDS {
                return Err(unusable(&waiting[0].path, "hard links to later entries form too long a chain"));
            }
            // Turning round each time, a chain in either order of the archive takes two rounds.
            waiting.reverse();
            reversed = !reversed;
            self.kept_text = 0;
            for link in std::mem::take(&mut waiting) {
                self.halt.check()?;
                let walked = resolve::walk(&self.tree, &link.path, &self.limits)?;
                let Some(name) = walked.name.clone() else { continue };
                // An entry that came after the link took its place.
                let there = walked.missing.is_empty().then(|| self.tree.lookup(walked.directory, &name)).flatten();
                if there.is_some() && there != link.displaces {
                    continue;
                }
                self.place_link(&link.path, &link.target, walked, &name, steps)?;
                waiting.append(&mut self.waiting);
            }
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        let mut lower = Vec::new();
        if reversed {
            waiting.reverse();
        }
        for link in waiting {
            self.halt.check()?;
            lower.extend(self.place_stand_in(link, steps)?);
        }
        Ok(lower)
    }

    fn link_to_placeholder(
        &mut self,
        link: WaitingLink,
        target: Vec<u8>,
        steps: &mut Vec<Step>,
    ) -> Result<Option<WaitingLink>> {
        let walked = resolve::walk(&self.tree, &link.path, &self.limits)?;
        let Some(name) = walked.name.clone() else { return Ok(None) };
        self.report.note(Note::LinkToLowerLayer, &link.path);
        self.keep_text(link.path.len() + target.len(), &link.path)?;
        self.place_link(&link.path, &link.target, walked, &name, steps)?;
        Ok(Some(WaitingLink { path: link.path, target, displaces: None }))
    }

    fn place_stand_in(&mut self, link: WaitingLink, steps: &mut Vec<Step>) -> Result<Option<WaitingLink>> {
        // The target may be such a link itself, which by now has its placeholder.
        if let Some(target) = resolve::find(&self.tree, &link.target, &self.limits)?
            && self.tree.kind(target) == NodeKind::CrossLayer
        {
            let target = self.tree.target(&self.tree.inode(target)?)?;
            return self.link_to_placeholder(link, target, steps);
        }
        let walked = resolve::walk(&self.tree, &link.path, &self.limits)?;
        let Some(name) = walked.name.clone() else { return Ok(None) };
        self.report.note(Note::LinkToLowerLayer, &link.path);
        let parent = self.make_parents(walked, &link.path, steps)?;
        if let Some(there) = self.tree.lookup(parent, &name) {
            if self.tree.is_directory(there) {
                return Err(unusable(&link.path, "it is a hard link in place of a directory"));
            }
            self.remove(there, steps)?;
        }
        let target = resolve::lexical(&link.target);
        let mut inode = Inode { kind: NodeKind::CrossLayer, ..empty_file() };
        self.tree.put_target(&mut inode, &target, &link.path)?;
        let entry = self.tree.add_entry(parent, &name, &inode)?;
        steps.push(Step::MakeFile { entry, content: Box::default() });
        self.keep_text(self.tree.path_length(entry) + target.len(), &link.path)?;
        Ok(Some(WaitingLink { path: self.tree.path(entry), target, displaces: None }))
    }
}
