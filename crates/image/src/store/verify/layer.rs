//! One layer: looked through, and mended from its blob or removed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Lock, make_directory, remove_file_if_there},
    layer::{
        BlobFacts, Halt, LayerIndex, Limits, OVERRIDE_STAT, OverrideStat, Sidecar, Source, TableFacts, Unpack,
        Unpacked, unpack, write_list,
    },
    model::{Digest, Hasher},
    store::{
        COMPLETE_MARKER, CachedLayerMetadata, GlobalCache, Holder, Inherited, LayerFile, TreeFile, TreeName, Walker,
        inventory::Inventory,
        open_file,
        publish::fill_all,
        publish::write_or_remove,
        publish_table, publish_tree, throw_away,
        verify::{
            Depth, ProblemKind, Repair, SkipReason,
            tree::{Difference, Excused, compare_trees, compare_with_index, left_out, open},
        },
    },
};

const READ: usize = 256 << 10;
/// Memory in MiB, and open directories, of an extraction here: whoever verifies has a permit for them.
const BLOCKS: usize = 5;
const DIRECTORIES: usize = 16;

/// A layer under verification.
pub(super) struct LayerCheck<'a> {
    pub(super) cache: &'a GlobalCache,
    /// The one of its trees that is looked at.
    pub(super) tree: TreeName,
    /// What the metadata of an image say of it; `None` if no image names it.
    pub(super) expected: Option<&'a CachedLayerMetadata>,
    pub(super) depth: Depth,
    /// The trees whose own files are known to be those of their blobs, where links may be copied from no others.
    pub(super) proven: Option<&'a BTreeSet<TreeName>>,
    pub(super) halt: &'a Halt,
}

/// What was found, and what was done.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<(Difference, Option<Repair>)>,
    pub(super) skipped: Option<SkipReason>,
    pub(super) extracted: bool,
    /// The tree was compared with its blob.
    pub(super) is_compared: bool,
}

impl Findings {
    /// True if the files of the tree, but for its links, are now those of its blob.
    pub(super) fn is_proof(&self) -> bool {
        let is_mended = |(wrong, done): &(Difference, Option<Repair>)| {
            wrong.kind == ProblemKind::DamagedBlob || *done == Some(Repair::Extracted)
        };
        self.is_compared && self.problems.iter().all(is_mended)
    }
}

impl LayerCheck<'_> {
    /// Looks through the layer, holding its locks where the cache can be written.
    pub(super) fn run(&self, repair: bool) -> Result<Findings> {
        let mut findings = Findings::default();
        let locks = match self.lock(repair)? {
            Locks::Held(locks) => Some(locks),
            Locks::Busy => {
                findings.skipped = Some(SkipReason::Locked);
                return Ok(findings);
            }
            Locks::NotWanted => None,
        };
        let blob = self.look_at_blob()?;
        let mut tree = self.look_at_tree(&mut findings)?;
        let mut fresh = None;
        if self.depth == Depth::Content && tree.is_empty() && self.is_there(LayerFile::Tree) {
            match (&blob, &locks) {
                // The base of a layer with links to lower ones is the original's own, without the links.
                _ if self.cache.is_never_right(&self.tree) => findings.skipped = Some(SkipReason::MadeByOriginal),
                (Blob::Right, Some(_)) => {
                    (tree, fresh) = self.compare_with_blob(&mut findings)?;
                    findings.is_compared = true;
                }
                (Blob::Right, None) => findings.skipped = Some(SkipReason::ReadOnly),
                _ => findings.skipped = Some(SkipReason::NoBlob),
            }
        }
        if let Blob::Wrong(detail) = &blob {
            let path = self.path(LayerFile::Blob);
            let done = repair.then(|| remove(&path)).transpose()?.map(|()| Repair::Deleted);
            let difference = Difference { kind: ProblemKind::DamagedBlob, path, detail: detail.clone() };
            findings.problems.push((difference, done));
        }
        let missing = !self.is_there(LayerFile::Tree) && self.expected.is_some() && self.is_still_named()?;
        let wanted = repair && (missing || !tree.is_empty());
        let in_use = wanted && self.cache.is_in_use(self.digest())?;
        if in_use {
            findings.skipped = Some(SkipReason::Locked);
        }
        let done = if wanted && !in_use { self.mend(fresh)? } else { None };
        findings.extracted = done == Some(Repair::Extracted);
        findings.is_compared |= findings.extracted;
        if missing {
            let path = self.path(LayerFile::Tree);
            let detail = "an image names this layer and there is no tree of it".to_owned();
            let done = done.filter(|&done| done == Repair::Extracted);
            findings.problems.push((Difference { kind: ProblemKind::MissingLayer, path, detail }, done));
        }
        findings.problems.extend(tree.into_iter().map(|difference| (difference, done)));
        if !findings.extracted {
            self.throw_scratch_away(locks.as_deref())?;
        }
        Ok(findings)
    }

    /// True if an image names the tree now: since the verification began, image and layer may have been pruned.
    fn is_still_named(&self) -> Result<bool> {
        Ok(Inventory::read(self.cache)?.named_trees().contains(&self.tree))
    }

    fn digest(&self) -> &Digest {
        &self.tree.digest
    }

    /// True if there is a tree and nothing is wrong with it, and an index if one is wanted.
    pub(super) fn is_sound(&self, index: bool) -> bool {
        self.soundness(index) == Soundness::Whole
    }

    /// How the tree is, and whether it has an index if one is wanted.
    pub(super) fn soundness(&self, index: bool) -> Soundness {
        let is_beside = |wrong: &Difference| matches!(wrong.kind, ProblemKind::DamagedIndex | ProblemKind::DamagedList);
        match self.look_at_tree(&mut Findings::default()) {
            Ok(wrong) if self.is_there(LayerFile::Tree) && wrong.iter().all(is_beside) => {
                let is_whole = wrong.is_empty() && (!index || self.is_there(LayerFile::Index));
                if is_whole { Soundness::Whole } else { Soundness::Bare }
            }
            _ => Soundness::Damaged,
        }
    }

    /// Makes the layer anew from its blob if its tree is damaged or can't be checked, holding its locks. What can't be
    /// mended stays as it is.
    pub(super) fn heal(&self) -> Result<Healed> {
        let Locks::Held(_locks) = self.lock(true)? else { return Ok(Healed::Not) };
        // An error of the disk or a stop is no damage.
        let wrong = self.look_at_tree(&mut Findings::default())?;
        self.halt.check()?;
        if wrong.is_empty() && self.is_there(LayerFile::Tree) && self.is_there(LayerFile::Index) {
            return Ok(Healed::Whole);
        }
        let blob = self.path(LayerFile::Blob);
        if !fs::symlink_metadata(&blob).is_ok_and(|file| file.is_file())
            || hash(&blob, self.digest(), self.halt)? != *self.digest()
        {
            return Ok(Healed::Not);
        }
        if self.cache.is_in_use(self.digest())? {
            return Ok(Healed::Not);
        }
        match self.unpack() {
            Ok(mut unpacked) => {
                if let Err(error) = self.inherit(&mut unpacked).and_then(|()| self.publish(&unpacked)) {
                    throw_away(&self.path(LayerFile::Extracting))?;
                    return if error.is_aborted() { Err(error) } else { Ok(Healed::Not) };
                }
                Ok(Healed::Extracted)
            }
            Err(error) => {
                throw_away(&self.path(LayerFile::Extracting))?;
                Err(error)
            }
        }
    }

    fn lock(&self, repair: bool) -> Result<Locks> {
        let mut held = Vec::new();
        for file in [LayerFile::DownloadLock, LayerFile::Lock] {
            match Lock::try_acquire(&self.path(file)) {
                Ok(Some(lock)) => held.push(lock),
                Ok(None) => return Ok(Locks::Busy),
                // A read-only cache can be looked through all the same.
                Err(error) if repair => return Err(error),
                Err(_) => return Ok(Locks::NotWanted),
            }
        }
        Ok(Locks::Held(held))
    }

    fn look_at_blob(&self) -> Result<Blob> {
        let path = self.path(LayerFile::Blob);
        let Ok(there) = fs::symlink_metadata(&path) else { return Ok(Blob::None) };
        if !there.is_file() {
            return Ok(Blob::Wrong("it is no regular file".to_owned()));
        }
        let claimed = self.expected.and_then(|layer| layer.size_bytes);
        let size = self.cache.table(self.digest()).map(|table| table.verified().size).or(claimed);
        let differs = self.depth >= Depth::Size && size.is_some_and(|size| size != there.len());
        // What a manifest claims proves nothing: the bytes decide.
        if self.depth < Depth::Content && !differs {
            return Ok(Blob::NotHashed);
        }
        let actual = hash(&path, self.digest(), self.halt)?;
        Ok(if actual == *self.digest() { Blob::Right } else { Blob::Wrong(format!("its digest is {actual}")) })
    }

    /// The tree, its marker, its index and its lists.
    fn look_at_tree(&self, findings: &mut Findings) -> Result<Vec<Difference>> {
        let (tree, index_path) = (self.path(LayerFile::Tree), self.path(LayerFile::Index));
        let one = |kind, path: &Path, detail: &str| {
            Ok(vec![Difference { kind, path: path.to_owned(), detail: detail.to_owned() }])
        };
        match fs::symlink_metadata(&tree) {
            Err(_) if self.is_there(LayerFile::Index) => {
                return one(ProblemKind::OrphanIndex, &index_path, "its tree is not there");
            }
            Err(_) => return Ok(Vec::new()),
            Ok(there) if !there.is_dir() => return one(ProblemKind::ForeignTree, &tree, "it is no directory"),
            Ok(_) => {}
        }
        if fs::symlink_metadata(tree.join(COMPLETE_MARKER)).is_err() {
            return one(ProblemKind::MissingMarker, &tree, "it is not a finished tree: .complete is not there");
        }
        if self.depth < Depth::Size {
            return Ok(Vec::new());
        }
        if let Err(error) = self.inherited() {
            return one(ProblemKind::DamagedList, &self.list(), &error.to_string());
        }
        if !self.is_there(LayerFile::Index) {
            findings.skipped = Some(SkipReason::NoIndex);
            return Ok(Vec::new());
        }
        let index = match LayerIndex::open_trusted(&index_path, &self.cache.trust()?) {
            Ok(index) => index,
            Err(error) => return one(ProblemKind::DamagedIndex, &index_path, &error.to_string()),
        };
        let compared = compare_with_index(&tree, &index, self.halt)?;
        if compared.foreign {
            findings.skipped = Some(SkipReason::ForeignIndex);
        }
        Ok(compared.differences)
    }

    /// Unpacks the blob beside the tree and compares the two.
    fn compare_with_blob(&self, findings: &mut Findings) -> Result<(Vec<Difference>, Option<Unpacked>)> {
        let unpacked = match self.unpack() {
            Ok(unpacked) => unpacked,
            Err(error) if error.is_aborted() => return Err(error),
            Err(error) => {
                let detail = format!("it can't be unpacked: {error}");
                let path = self.path(LayerFile::Blob);
                return Ok((vec![Difference { kind: ProblemKind::DamagedBlob, path, detail }], None));
            }
        };
        let (is, must_be) = (self.path(LayerFile::Tree), self.path(LayerFile::Extracting));
        let mut excused = Excused::default();
        let (mut unpacked, mut is_filled) = (unpacked, true);
        match self.inherit(&mut unpacked) {
            Ok(()) => {}
            Err(error) if error.is_aborted() => return Err(error),
            // The files that its links lead to are not there to compare with.
            Err(_) => {
                excused.files.extend(unpacked.lower_links.iter().map(|link| link.path.clone()));
                findings.skipped = Some(SkipReason::NoBlob);
                is_filled = false;
            }
        }
        let mut found = compare_trees(&is, &must_be, &excused, self.halt)?;
        if self.tree.inherited.is_none() {
            // The original rewrites these in place, for another image.
            excused.directories.extend(unpacked.implicit_directories.iter().cloned());
            let links = unpacked.lower_links.iter().map(|link| link.path.clone());
            excused.absent = left_out(&must_be, links, &unpacked.implicit_directories, self.halt)?;
            let rest = compare_trees(&is, &must_be, &excused, self.halt)?;
            if rest.len() != found.len() || self.cache.table(self.digest()).is_none() {
                findings.skipped = Some(SkipReason::MadeByOriginal);
            }
            found = rest;
        }
        // One that lacks what it inherits is not to be published.
        Ok((found, Some(unpacked).filter(|_| is_filled)))
    }

    /// Gives the unpacked tree what the one under verification inherits.
    fn inherit(&self, unpacked: &mut Unpacked) -> Result<()> {
        let inherited = self.values(unpacked)?;
        if inherited == Inherited::default() {
            return Ok(());
        }
        let scratch = self.path(LayerFile::Extracting);
        let open_holder = |holder: &Holder| {
            let base = TreeName::base(&holder.digest);
            let base = Some(base).filter(|base| !self.cache.is_never_right(base)).into_iter();
            let keyed = self.cache.keyed_trees(&holder.digest, self.halt)?;
            let may_serve = |tree: &TreeName| self.proven.is_none_or(|proven| proven.contains(tree));
            let tree = base
                .chain(keyed)
                .filter(may_serve)
                .map(|tree| self.cache.tree(&tree, TreeFile::Tree))
                .find(|tree| tree.is_dir());
            let tree = tree.ok_or_else(|| ImageError::internal("no tree of a lower layer is there"))?;
            open_file(&mut Walker::new(&tree)?, &holder.path)
        };
        unpacked.index = fill_all(&scratch, self.digest(), unpacked.index.take(), &inherited, open_holder, self.halt)?;
        Ok(())
    }

    /// What the tree is to inherit: as its list says, or, of a base without a right one, as it stands.
    fn values(&self, unpacked: &Unpacked) -> Result<Inherited> {
        match self.inherited() {
            Ok(Some(inherited)) => Ok(inherited),
            Err(error) if self.tree.inherited.is_some() => Err(error),
            _ if unpacked.implicit_directories.is_empty() && unpacked.lower_links.is_empty() => {
                Ok(Inherited::default())
            }
            _ => self.standing(unpacked),
        }
    }

    /// What a base tree without a list has inherited, by what stands in it. Fails where that can't be told.
    fn standing(&self, unpacked: &Unpacked) -> Result<Inherited> {
        let unknown = || ImageError::internal("what a base tree inherited can't be told");
        if !unpacked.lower_links.is_empty() {
            return Err(unknown());
        }
        let mut tree = Walker::new(&self.path(LayerFile::Tree))?;
        let mut inherited = Inherited::default();
        for path in &unpacked.implicit_directories {
            let mut bytes = [0; 24];
            let read = rustix::fs::fgetxattr(tree.directory(path)?, OVERRIDE_STAT, &mut bytes[..]).ok();
            let stat = read.and_then(|length| OverrideStat::from_bytes(bytes.get(..length)?)).ok_or_else(unknown)?;
            inherited.directories.push((path.clone(), stat));
        }
        Ok(inherited)
    }

    /// What the tree inherits, by the list beside it; of a base tree without one, what stands in it.
    fn inherited(&self) -> Result<Option<Inherited>> {
        let path = self.list();
        let text = path.display().to_string();
        match (self.cache.read_list_file(&path)?, &self.tree.inherited) {
            (Some(bytes), Some(key)) => {
                let inherited = Inherited::parse(&bytes, &text)?;
                inherited.check_key(key, &text)?;
                Ok(Some(inherited))
            }
            (Some(bytes), None) => Inherited::parse(&bytes, &text).map(Some),
            (None, Some(_)) => {
                Err(ErrorKind::Cache { path: text, reason: "the list of what it inherits is gone".to_owned() }.into())
            }
            (None, None) => Ok(None),
        }
    }

    /// Extracts the layer anew if its blob is right, removes it if not. `fresh` is what was unpacked already.
    fn mend(&self, fresh: Option<Unpacked>) -> Result<Option<Repair>> {
        let blob = self.path(LayerFile::Blob);
        let unpacked = match fresh {
            Some(unpacked) => Some(unpacked),
            None if !fs::symlink_metadata(&blob).is_ok_and(|file| file.is_file()) => None,
            None if hash(&blob, self.digest(), self.halt)? != *self.digest() => {
                remove(&blob)?;
                None
            }
            None => match self.unpack().and_then(|mut unpacked| self.inherit(&mut unpacked).map(|()| unpacked)) {
                Ok(unpacked) => Some(unpacked),
                Err(error) if error.is_aborted() => return Err(error),
                Err(error) => {
                    tracing::warn!(layer = %self.digest(), %error, "a blob that hashes right can't be unpacked");
                    None
                }
            },
        };
        if let Some(unpacked) = unpacked {
            self.publish(&unpacked)?;
            return Ok(Some(Repair::Extracted));
        }
        remove(&self.path(LayerFile::Index))?;
        if self.tree.inherited.is_none() {
            remove(&self.path(LayerFile::ImplicitDirs))?;
        }
        remove(&self.list())?;
        throw_away(&self.path(LayerFile::Tree))?;
        Ok(Some(Repair::Deleted))
    }

    fn unpack(&self) -> Result<Unpacked> {
        let scratch = self.path(LayerFile::Extracting);
        throw_away(&scratch)?;
        make_directory(&scratch)?;
        let blob = self.path(LayerFile::Blob);
        // The blob's digest is right: what a config claims adds nothing, and may be a lie.
        let diff_id = self.cache.table(self.digest()).map(|table| table.verified().diff_id.clone());
        // It was within its limits when it was pulled, whatever they were.
        let limits = Limits { layer_bytes: None, file_bytes: None, entries: None, depth: None };
        let (blocks, directories) = (BLOCKS, DIRECTORIES);
        let facts = BlobFacts {
            digest: self.digest().clone(),
            size: fs::symlink_metadata(&blob).map_err(|error| ImageError::io("stat", &blob, error))?.len(),
            media_type: self.expected.and_then(|layer| layer.media_type.clone()).unwrap_or_default(),
        };
        let how = Unpack {
            blob: Some(facts),
            diff_id,
            limits,
            halt: self.halt.clone(),
            blocks,
            directories,
            ..Unpack::default()
        };
        unpack(BlobSource { file: open(&blob)?, path: blob, halt: self.halt.clone() }, &scratch, how)
    }

    fn throw_scratch_away(&self, locks: Option<&[Lock]>) -> Result<()> {
        // Without its locks it is somebody else's.
        if locks.is_some() { throw_away(&self.path(LayerFile::Extracting)) } else { Ok(()) }
    }

    /// The tree that was unpacked, in place of the one that is damaged or missing.
    fn publish(&self, unpacked: &Unpacked) -> Result<()> {
        let values = self.values(unpacked)?;
        if let Some(made) = &unpacked.table
            && (self.cache.table(self.digest()).is_some() || self.proves_base(made, &unpacked.implicit_directories)?)
        {
            publish_table(self.cache, self.digest(), made, false)?;
        }
        if self.tree.inherited.is_none() {
            let list = write_list(&unpacked.implicit_directories);
            write_or_remove(&self.path(LayerFile::ImplicitDirs), &list)?;
        }
        let (scratch, index) = (self.path(LayerFile::Extracting), unpacked.index.as_ref());
        publish_tree(self.cache, &self.tree, &scratch, index, &values)
    }

    /// Compares the base, if nobody did so before: from the first table on it would count.
    fn proves_base(&self, made: &Sidecar, implied: &[Vec<u8>]) -> Result<bool> {
        let facts = TableFacts::of(made)?;
        self.cache.prove_base(&facts, implied, &self.path(LayerFile::Extracting), self.halt)
    }

    fn is_there(&self, file: LayerFile) -> bool {
        fs::symlink_metadata(self.path(file)).is_ok()
    }

    fn path(&self, file: LayerFile) -> PathBuf {
        match file {
            LayerFile::Tree => self.cache.tree(&self.tree, TreeFile::Tree),
            LayerFile::Index => self.cache.tree(&self.tree, TreeFile::Index),
            _ => self.cache.layer(self.digest(), file),
        }
    }

    fn list(&self) -> PathBuf {
        self.cache.tree(&self.tree, TreeFile::List)
    }
}

/// How a tree is that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Soundness {
    /// Nothing is wrong with it.
    Whole,
    /// Only what stands beside it is: its list or index is damaged, or an index is wanted and missing.
    Bare,
    Damaged,
}

/// What became of a layer that was to be healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Healed {
    /// Nothing is wrong with it.
    Whole,
    /// It was made anew.
    Extracted,
    /// It is not usable.
    Not,
}

enum Locks {
    Held(Vec<Lock>),
    Busy,
    NotWanted,
}

enum Blob {
    None,
    NotHashed,
    Right,
    Wrong(String),
}

struct BlobSource {
    file: File,
    path: PathBuf,
    halt: Halt,
}

impl Source for BlobSource {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        self.halt.check()?;
        let mut bytes = vec![0; READ];
        let length = self.file.read(&mut bytes).map_err(|error| ImageError::io("read", &self.path, error))?;
        bytes.truncate(length);
        Ok((length > 0).then(|| bytes.into()))
    }
}

fn hash(path: &Path, digest: &Digest, halt: &Halt) -> Result<Digest> {
    let mut source = BlobSource { file: open(path)?, path: path.to_owned(), halt: halt.clone() };
    let mut hasher = Hasher::new(digest.algorithm());
    while let Some(bytes) = source.next_piece()? {
        hasher.update(&bytes);
    }
    Ok(hasher.finish())
}

/// Removes a file, or whatever is in its place.
fn remove(path: &Path) -> Result<()> {
    match remove_file_if_there(path) {
        Ok(_) => Ok(()),
        Err(error) => throw_away(path).map_err(|_| error),
    }
}
