//! Where an entry goes and what must give way: [`Planner`] keeps the tree and answers with steps.

use crate::{
    error::Result,
    layer::{
        halt::Halt,
        limits::Limits,
        plan::{
            inode::{Details, Inode, NodeKind},
            links::WaitingLink,
            resolve::{self, unusable},
            tree::{EntryId, ROOT, Tree, implicit_directory},
            whiteout::{self, Whiteout},
        },
        report::{Note, Report},
        spill::SpillHome,
        stat::{self, OverrideStat, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG},
        tar::{EntryKind, Member},
    },
};

/// One thing to do on disk, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove what has this name; for a directory all that is in it.
    Remove { parent: EntryId, name: Vec<u8>, directory: bool },
    /// Make a directory that is not there.
    MakeDirectory(EntryId),
    /// Give a directory that is there the extended attributes of its entry.
    DescribeDirectory(EntryId),
    /// Make a file that is not there: a regular file with its content, or a stand-in with `content`.
    MakeFile { entry: EntryId, content: Box<[u8]> },
    /// Give an inode one more name.
    Link { entry: EntryId, target: EntryId },
}

/// The longest target of a symbolic link that Linux allows.
const MAX_TARGET: usize = 4095;

/// Bytes of paths and targets that are kept in memory for a layer: hard links whose target has not come yet, directories
/// that no entry described. A short name behind a link can stand for a path of 32 KiB, so their number bounds nothing.
const MAX_TEXT: usize = 16 << 20;
/// What each of them takes beside its text.
const BESIDE_TEXT: usize = 64;

/// Decides where entries go.
pub(crate) struct Planner {
    pub(crate) tree: Tree,
    pub(crate) report: Report,
    pub(super) limits: Limits,
    pub(crate) halt: Halt,
    entries: u64,
    /// The last parent's path and place: entries of one directory mostly come together.
    last_parent: Option<(Vec<u8>, EntryId)>,
    /// Hard links whose target has not come yet.
    pub(super) waiting: Vec<WaitingLink>,
    pub(super) kept_text: usize,
}

impl Planner {
    /// What takes much memory goes to `home`.
    pub(crate) fn new(limits: Limits, home: &SpillHome, halt: Halt) -> Result<Self> {
        Ok(Self {
            tree: Tree::new(home)?,
            report: Report::default(),
            limits,
            halt,
            entries: 0,
            last_parent: None,
            waiting: Vec::new(),
            kept_text: 0,
        })
    }

    /// Plans one entry. Appends to `steps`; answers with the entry that takes the content that follows.
    pub(crate) fn place(&mut self, member: &Member<'_>, steps: &mut Vec<Step>) -> Result<Option<EntryId>> {
        self.count(member.path)?;
        if let EntryKind::Other(_) = member.kind {
            self.report.note(Note::TypeIgnored, member.path);
            return Ok(None);
        }
        let walked = self.walk(member.path)?;
        let Some(name) = walked.name.clone() else {
            return self.place_root(member, steps);
        };
        if walked.missing.first().is_some_and(|name| whiteout::is_aufs(name)) {
            self.report.note(Note::AufsIgnored, member.path);
            return Ok(None);
        }
        if walked.missing.iter().any(|name| name.starts_with(whiteout::PREFIX)) {
            return Err(unusable(member.path, "it lies in a directory with the name of a whiteout"));
        }
        let kind = match whiteout::read(&name, member.path)? {
            Whiteout::Aufs => {
                self.report.note(Note::AufsIgnored, member.path);
                return Ok(None);
            }
            // A whiteout is its name; whatever type it came with, it is kept as a file.
            Whiteout::Hides(_) | Whiteout::Opaque if member.kind != EntryKind::File => EntryKind::Fifo,
            _ => member.kind,
        };
        let is_whiteout = name.starts_with(whiteout::PREFIX);
        if kind == EntryKind::HardLink {
            return self.place_link(member.path, member.link, walked, &name, steps).map(|()| None);
        }
        let parent = self.make_parents(walked, member.path, steps)?;
        if resolve::is_plain_name(&name) && member.path.ends_with(&name) {
            self.remember_parent(member.path, parent);
        }
        self.place_in(parent, &name, member, kind, is_whiteout, steps)
    }

    /// [`resolve::walk`], short cut where the entry lies beside the one before it.
    fn walk(&self, path: &[u8]) -> Result<resolve::Walked> {
        if let (Some((known, directory)), Some(slash)) =
            (&self.last_parent, path.iter().rposition(|&byte| byte == b'/'))
            && path[..slash] == known[..]
            && resolve::is_plain_name(&path[slash + 1..])
        {
            return Ok(resolve::Walked {
                directory: *directory,
                missing: Vec::new(),
                in_the_way: None,
                name: Some(path[slash + 1..].to_vec()),
            });
        }
        resolve::walk(&self.tree, path, &self.limits)
    }

    fn remember_parent(&mut self, path: &[u8], parent: EntryId) {
        if let Some(slash) = path.iter().rposition(|&byte| byte == b'/').filter(|&slash| slash + 1 < path.len()) {
            // Where ".." leads depends on what stands before it, which may still come.
            if path[..slash].split(|&byte| byte == b'/').any(|name| name == b"..") {
                self.last_parent = None;
                return;
            }
            let mut known = self.last_parent.take().map(|(known, _)| known).unwrap_or_default();
            known.clear();
            known.extend_from_slice(&path[..slash]);
            self.last_parent = Some((known, parent));
        }
    }

    fn count(&mut self, path: &[u8]) -> Result<()> {
        self.entries += 1;
        self.limits.check_entries(self.entries, path)
    }

    /// Counts text that stays in memory until the layer ends.
    pub(super) fn keep_text(&mut self, bytes: usize, path: &[u8]) -> Result<()> {
        self.kept_text += bytes + BESIDE_TEXT;
        if self.kept_text > MAX_TEXT {
            return Err(unusable(path, "the paths and targets to be remembered for the layer take more than 16 MiB"));
        }
        Ok(())
    }

    fn place_root(&mut self, member: &Member<'_>, steps: &mut Vec<Step>) -> Result<Option<EntryId>> {
        if member.kind != EntryKind::Directory {
            return Err(unusable(member.path, "only a directory can be the root"));
        }
        self.describe_directory(ROOT, member)?;
        steps.push(Step::DescribeDirectory(ROOT));
        Ok(None)
    }

    fn describe_directory(&mut self, entry: EntryId, member: &Member<'_>) -> Result<()> {
        let mut inode = self.tree.inode(entry)?;
        inode.stat = stat_of(member, EntryKind::Directory, false);
        inode.mtime = member.mtime;
        inode.implicit = false;
        if !member.xattrs.is_empty() {
            let mut details = self.tree.details(&inode)?;
            details.take_xattrs(member);
            self.tree.put_details(&mut inode, &details, member.path)?;
        }
        self.tree.update(entry, |there| *there = inode)
    }

    /// Makes the directories that are missing on the way and returns the last one.
    pub(super) fn make_parents(
        &mut self,
        walked: resolve::Walked,
        path: &[u8],
        steps: &mut Vec<Step>,
    ) -> Result<EntryId> {
        if let Some(entry) = walked.in_the_way {
            self.report.note(Note::EntryReplaced, &self.tree.path(entry));
            self.remove(entry, steps)?;
        }
        let mut parent = walked.directory;
        for name in walked.missing {
            self.count(path)?;
            parent = self.tree.add_entry(parent, &name, &implicit_directory())?;
            self.keep_text(self.tree.path_length(parent), path)?;
            steps.push(Step::MakeDirectory(parent));
        }
        Ok(parent)
    }

    pub(super) fn remove(&mut self, entry: EntryId, steps: &mut Vec<Step>) -> Result<()> {
        self.last_parent = None;
        steps.push(Step::Remove {
            parent: self.tree.parent(entry),
            name: self.tree.name(entry).to_vec(),
            directory: self.tree.is_directory(entry),
        });
        self.tree.remove(entry, &self.halt)
    }

    fn place_in(
        &mut self,
        parent: EntryId,
        name: &[u8],
        member: &Member<'_>,
        kind: EntryKind,
        is_whiteout: bool,
        steps: &mut Vec<Step>,
    ) -> Result<Option<EntryId>> {
        if let Some(there) = self.tree.lookup(parent, name) {
            if kind == EntryKind::Directory && self.tree.is_directory(there) {
                self.describe_directory(there, member)?;
                steps.push(Step::DescribeDirectory(there));
                return Ok(None);
            }
            self.report.note(Note::EntryReplaced, member.path);
            self.remove(there, steps)?;
        }
        let special = matches!(kind, EntryKind::Character | EntryKind::Block | EntryKind::Fifo);
        if special && !is_whiteout {
            self.report.note(Note::SpecialAsFile, member.path);
        }
        let link: Box<[u8]> = if kind == EntryKind::Symlink { member.link.into() } else { Box::default() };
        let usable = !link.is_empty() && !link.contains(&0) && link.len() <= MAX_TARGET;
        if kind == EntryKind::Symlink && !usable {
            return Err(unusable(member.path, "a symbolic link has no usable target"));
        }
        let inode = self.inode_of(member, kind, is_whiteout, &link)?;
        let entry = self.tree.add_entry(parent, name, &inode)?;
        if kind == EntryKind::Directory {
            steps.extend([Step::MakeDirectory(entry), Step::DescribeDirectory(entry)]);
            return Ok(None);
        }
        steps.push(Step::MakeFile { entry, content: link });
        Ok((kind == EntryKind::File).then_some(entry))
    }

    fn inode_of(&self, member: &Member<'_>, kind: EntryKind, is_whiteout: bool, link: &[u8]) -> Result<Inode> {
        let node = match kind {
            EntryKind::Directory => NodeKind::Directory,
            EntryKind::Symlink => NodeKind::Symlink,
            _ => NodeKind::Leaf,
        };
        let mut inode = Inode::new(node, stat_of(member, kind, is_whiteout));
        inode.mtime = member.mtime;
        inode.size = member.size;
        inode.position = (member.stored > 0).then_some(member.position);
        if node == NodeKind::Symlink {
            inode.size = link.len() as u64;
            self.tree.put_target(&mut inode, link, member.path)?;
        }
        let mut details = Details::default();
        details.take_xattrs(member);
        details.take_segments(member);
        self.tree.put_details(&mut inode, &details, member.path)?;
        Ok(inode)
    }

    /// After the last entry: the whiteouts, each to be looked at by [`absorb_whiteout`](Self::absorb_whiteout).
    pub(crate) fn whiteouts(&self) -> Vec<EntryId> {
        self.tree.entries().filter(|&id| self.tree.name(id).starts_with(whiteout::PREFIX)).collect()
    }

    /// A whiteout beside an entry of the name it hides gives way to it, and a directory among those becomes opaque, so
    /// that it hides what is below as a whole.
    pub(crate) fn absorb_whiteout(&mut self, id: EntryId, steps: &mut Vec<Step>) -> Result<()> {
        self.halt.check()?;
        let parent = self.tree.parent(id);
        let name = self.tree.name(id).to_vec();
        let Ok(Whiteout::Hides(hidden)) = whiteout::read(&name, &name) else { return Ok(()) };
        let Some(there) = self.tree.lookup(parent, hidden) else { return Ok(()) };
        self.report.note(Note::WhiteoutAbsorbed, &self.tree.path(there));
        let mtime = self.tree.inode(id)?.mtime;
        self.remove(id, steps)?;
        // It hides what is below, so what a lower layer says of it does not count.
        self.tree.update(there, |inode| {
            if std::mem::take(&mut inode.implicit) {
                inode.mtime = mtime;
            }
        })?;
        if self.tree.is_directory(there) && self.tree.lookup(there, whiteout::OPAQUE).is_none() {
            self.count(hidden)?;
            let entry = self.tree.add_entry(there, whiteout::OPAQUE, &empty_file())?;
            steps.push(Step::MakeFile { entry, content: Box::default() });
        }
        Ok(())
    }

    /// The directories that no entry described, by path, root excluded, sorted.
    pub(crate) fn implicit_directories(&self) -> Result<Vec<Vec<u8>>> {
        let mut paths = Vec::new();
        for (n, id) in self.tree.entries().filter(|&id| id != ROOT && self.tree.is_directory(id)).enumerate() {
            if n.is_multiple_of(1024) {
                self.halt.check()?;
            }
            if self.tree.inode(id)?.implicit {
                paths.push(self.tree.path(id));
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// A file that no entry of the archive described.
pub(super) fn empty_file() -> Inode {
    Inode::new(NodeKind::Leaf, OverrideStat { uid: 0, gid: 0, mode: S_IFREG | 0o644, rdev: 0 })
}

fn stat_of(member: &Member<'_>, kind: EntryKind, is_whiteout: bool) -> OverrideStat {
    let type_bits = match kind {
        _ if is_whiteout => S_IFREG,
        EntryKind::Directory => S_IFDIR,
        EntryKind::Symlink => S_IFLNK,
        EntryKind::Character => S_IFCHR,
        EntryKind::Block => S_IFBLK,
        EntryKind::Fifo => S_IFIFO,
        EntryKind::File | EntryKind::HardLink | EntryKind::Other(_) => S_IFREG,
    };
    let permissions = if kind == EntryKind::Symlink { 0o777 } else { member.mode & 0o7777 };
    let rdev = match kind {
        EntryKind::Character | EntryKind::Block => stat::makedev(member.device.0, member.device.1),
        _ => 0,
    };
    OverrideStat { uid: member.uid, gid: member.gid, mode: type_bits | permissions, rdev }
}
