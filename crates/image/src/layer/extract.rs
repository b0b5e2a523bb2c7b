//! One layer's stream → its tree: decode, hash, walk, plan and write, each stage as far ahead as its queue allows.
//!
//! ```text
//! source ─▶ decode ─▶ blocks ─┬▶ walk ─▶ plan ─▶ writers (files, by directory)
//!                             └▶ diff_id
//! ```
//! The calling thread decodes, walks and plans, and makes directories itself, so a directory is there before a file
//! for it is handed to a writer.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    layer::{
        apply::{Directories, FileMeta, Handle, Writers, finish_directories, keep_all},
        block::{Block, Pool, Slice},
        decode::{Decoder, Source},
        halt::Halt,
        limits::{Limits, entry_text},
        lower_link::LowerLink,
        plan::{EntryId, Planner, Step, Tree},
        queue::{Receiver, Sender, bounded},
        report::{Note, Report},
        spill::SpillHome,
        stages::{Stages, TimedSource, timed},
        tar::{Member, Sink, Walker},
    },
    model::{Algorithm, Digest, Hasher},
};

/// Threads that make files, at most.
const MAX_WRITERS: usize = 64;
/// No writer yet.
const NO_MAKER: u8 = u8::MAX;

/// What to extract, and how.
pub(crate) struct Job<S: Source> {
    /// Compressed bytes, in order.
    pub(crate) source: S,
    /// An empty directory, open.
    pub(crate) root: OwnedFd,
    /// Where what takes much memory goes.
    pub(crate) home: SpillHome,
    /// What the uncompressed bytes must hash to; `None` where nobody promised anything.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) limits: Limits,
    /// Threads that make files.
    pub(crate) writers: usize,
    pub(crate) halt: Halt,
    /// Blocks in the ring: decoder, hasher and writers each have some in hand.
    pub(crate) blocks: usize,
    /// Directories that are open at a time, those that jobs wait to use included.
    pub(crate) directories: usize,
}

/// A tree that was written and verified.
pub(crate) struct Extracted {
    pub(crate) tree: Tree,
    /// False where the host's listings give other numbers than `stat`.
    pub(crate) inodes_are_known: bool,
    pub(crate) report: Report,
    /// Directories no entry described, sorted paths.
    pub(crate) implicit_directories: Vec<Vec<u8>>,
    /// Hard links to files of lower layers.
    pub(crate) lower_links: Vec<LowerLink>,
    /// Length and hash of the uncompressed bytes.
    pub(crate) uncompressed: u64,
    pub(crate) diff_id: Digest,
    pub(crate) stages: Stages,
}

/// Extracts a layer. Blocks; call it off the async threads.
pub(crate) fn extract<S: Source>(job: Job<S>) -> Result<Extracted> {
    let halt = job.halt.clone();
    let outcome = std::thread::scope(|scope| run(scope, job));
    outcome.map_err(|error| {
        // A stage that was stopped only says so; the reason is with whoever stopped it.
        halt.fail(error);
        halt.take_error().unwrap_or_else(ImageError::aborted)
    })
}

fn run<'scope, S: Source>(scope: &'scope std::thread::Scope<'scope, '_>, job: Job<S>) -> Result<Extracted> {
    let began = Instant::now();
    let Job { source, root, home, diff_id, limits, writers, halt, blocks, directories } = job;
    let writers = writers.clamp(1, MAX_WRITERS);
    let (to_hasher, to_hash) = bounded(blocks);
    let algorithm = diff_id.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let hasher = scope.spawn(move || hash(Hasher::new(algorithm), &to_hash));
    let (sending, threads) = Writers::start(scope, writers, limits, &halt);
    let mut builder = Builder {
        planner: Planner::new(limits, &home, halt.clone())?,
        limits,
        directories: Directories::new(root, directories),
        halt: halt.clone(),
        makers: Vec::new(),
        writers: sending,
        steps: Vec::new(),
        current: None,
        layer_bytes: 0,
    };
    let mut stages = Stages::default();
    let read = read_all(source, &mut builder, blocks, to_hasher, &halt, &mut stages)
        .and_then(|uncompressed| Ok((uncompressed, builder.finish_entries()?)));
    // On failure the other stages must not wait for this one.
    if let Err(error) = read {
        halt.fail(error);
        return Err(ImageError::aborted());
    }
    let (uncompressed, lower_links) = read?;
    stages.waiting_for_writers = builder.writers.waited();
    stages.planning = stages.planning.saturating_sub(stages.waiting_for_writers);
    let Builder { mut planner, writers: sending, directories: open, makers, .. } = builder;
    drop(makers);
    let root = open.close_all();
    // The writers end when nobody can send to them any more.
    drop(sending);
    let ended = timed(&mut stages.ending, || (threads.join(), hasher.join()));
    let ((report, writing), hashed) = ended;
    planner.report.merge(report);
    halt.check()?;
    let (actual, hashing) = hashed.map_err(|_| ImageError::internal("the hashing thread panicked"))?;
    (stages.writing, stages.hashing) = (writing, hashing);
    if let Some(diff_id) = diff_id.filter(|diff_id| *diff_id != actual) {
        return Err(ErrorKind::DigestMismatch {
            what: "the uncompressed layer (diff_id)".to_owned(),
            expected: diff_id.to_string(),
            actual: actual.to_string(),
        }
        .into());
    }
    let copies = planner.report.has(Note::LinkCopied);
    let finish = || finish_directories(&planner.tree, &root, writers, directories, copies, &halt);
    let inodes_are_known = timed(&mut stages.directories, finish)?;
    stages.elapsed = began.elapsed();
    let implicit_directories = planner.implicit_directories()?;
    Ok(Extracted {
        tree: planner.tree,
        inodes_are_known,
        report: planner.report,
        implicit_directories,
        lower_links,
        uncompressed,
        diff_id: actual,
        stages,
    })
}

/// The hash of all blocks, and how long that took without the waiting for them.
fn hash(mut hasher: Hasher, blocks: &Receiver<Arc<Block>>) -> (Digest, Duration) {
    let mut working = Duration::ZERO;
    while let Some(block) = blocks.receive() {
        timed(&mut working, || hasher.update(&block));
    }
    (hasher.finish(), working)
}

/// Decodes to the very end, past the end of the archive, since the diff_id covers all of it.
fn read_all<S: Source>(
    source: S,
    builder: &mut Builder,
    blocks: usize,
    to_hasher: Sender<Arc<Block>>,
    halt: &Halt,
    stages: &mut Stages,
) -> Result<u64> {
    let pool = Pool::new(blocks);
    let (source, waited) = TimedSource::new(source);
    let mut decoder = Decoder::new(source)?;
    let mut walker = Walker::new();
    let mut total = 0;
    loop {
        let mut block = builder.writers.block(&pool, &mut stages.waiting_for_blocks)?;
        let filled = timed(&mut stages.decoding, || decoder.fill(block.room()))?;
        block.set_length(filled);
        let full = filled == block.room().len();
        total += filled as u64;
        let block = Arc::new(block);
        timed(&mut stages.waiting_for_hasher, || to_hasher.send(Arc::clone(&block), halt))?;
        timed(&mut stages.planning, || walker.feed(&block, builder))?;
        if !full {
            break;
        }
    }
    walker.finish()?;
    decoder.drain_source()?;
    stages.waiting_for_source = waited();
    stages.decoding = stages.decoding.saturating_sub(stages.waiting_for_source);
    Ok(total)
}

/// Plans what the walker finds and hands it to the writers.
struct Builder {
    planner: Planner,
    limits: Limits,
    directories: Directories,
    halt: Halt,
    /// By entry: which writer made a file, or makes the files of a directory now.
    makers: Vec<u8>,
    writers: Writers,
    steps: Vec<Step>,
    /// The writer that takes the content of the file at hand.
    current: Option<Current>,
    layer_bytes: u64,
}

struct Current {
    thread: usize,
    path: Vec<u8>,
}

impl Sink for Builder {
    fn entry(&mut self, member: &Member<'_>) -> Result<()> {
        self.limits.check_file_bytes(member.size, member.path)?;
        let mut steps = std::mem::take(&mut self.steps);
        steps.clear();
        let file = self.planner.place(member, &mut steps)?;
        self.current = None;
        for step in &mut steps {
            self.apply(step, Some((member, file)))?;
        }
        self.steps = steps;
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: Slice) -> Result<()> {
        let Some(current) = &self.current else { return self.skipped(bytes.len()) };
        self.layer_bytes += bytes.len() as u64;
        self.limits.check_layer_bytes(self.layer_bytes, &current.path)?;
        self.writers.content(current.thread, offset, bytes)
    }

    fn skipped(&mut self, bytes: usize) -> Result<()> {
        self.layer_bytes += bytes as u64;
        self.limits.check_layer_bytes(self.layer_bytes, b"(bytes that are in no file)")
    }
}

impl Builder {
    fn apply(&mut self, step: &mut Step, member: Option<(&Member<'_>, Option<EntryId>)>) -> Result<()> {
        match step {
            Step::Remove { parent, name, directory } => {
                self.writers.drain()?;
                let Planner { tree, halt, .. } = &self.planner;
                self.directories.remove(tree, *parent, name, *directory, halt)
            }
            Step::MakeDirectory(entry) => self.directories.make(&self.planner.tree, *entry),
            Step::DescribeDirectory(entry) => {
                let xattrs = member.map_or(&[][..], |(member, _)| member.xattrs);
                if xattrs.is_empty() {
                    return Ok(());
                }
                let handle = self.handle(*entry)?;
                let path = self.planner.tree.path(*entry);
                keep_all(handle.as_fd(), &path, xattrs, &mut self.planner.report);
                Ok(())
            }
            Step::MakeFile { entry, content } => {
                let stored = member.filter(|(_, file)| *file == Some(*entry)).map(|(member, _)| member);
                self.make_file(*entry, std::mem::take(content), stored, member.map(|(member, _)| member))
            }
            Step::Link { entry, target } => self.link(*entry, *target),
        }
    }

    fn make_file(
        &mut self,
        entry: EntryId,
        content: Box<[u8]>,
        stored: Option<&Member<'_>>,
        member: Option<&Member<'_>>,
    ) -> Result<()> {
        let parent = self.planner.tree.parent(entry);
        let directory = self.handle(parent)?;
        let tree = &self.planner.tree;
        let inode = tree.inode(entry)?;
        let meta = FileMeta {
            directory,
            name: c_name(tree.name(entry))?,
            stat: inode.stat,
            mtime: inode.mtime,
            xattrs: member.map(|member| member.xattrs.to_vec()).unwrap_or_default(),
            size: inode.size,
            stored: stored.map_or(0, |member| member.stored),
        };
        let thread = self.thread_for(parent, entry);
        match stored {
            Some(member) => {
                self.current = Some(Current { thread, path: member.path.to_vec() });
                self.writers.file(thread, meta)
            }
            None => self.writers.stub(thread, meta, content),
        }
    }

    /// The writer that made the target gives it the other name, so nobody has to wait for anybody.
    fn link(&mut self, entry: EntryId, target: EntryId) -> Result<()> {
        let (parent, target_parent) = (self.planner.tree.parent(entry), self.planner.tree.parent(target));
        let from = self.handle(target_parent)?;
        // No wait between the two: what is open for the way to one directory is enough for a second one.
        let to = self.directories.handle(&self.planner.tree, parent)?;
        let name = |entry| c_name(self.planner.tree.name(entry));
        let (from, to) = ((from, name(target)?), (to, name(entry)?));
        // Every file has a maker by the time something is linked to it.
        let thread = self.maker(target).unwrap_or(0);
        self.set_maker(entry, thread);
        self.writers.link(thread, from, to)
    }

    /// A handle for a job. Where too many are kept by jobs already, those are handed over and waited for.
    fn handle(&mut self, directory: EntryId) -> Result<Arc<Handle>> {
        if self.directories.are_too_many_open() {
            self.writers.flush_all()?;
            self.directories.wait(&self.halt)?;
        }
        self.directories.handle(&self.planner.tree, directory)
    }

    /// The writer for a file: its directory's, which changes when that one can't keep up while another can.
    fn thread_for(&mut self, directory: EntryId, file: EntryId) -> usize {
        let now = self.maker(directory).unwrap_or_else(|| self.writers.least_loaded());
        let thread = self.writers.relieved(now);
        self.set_maker(directory, thread);
        self.set_maker(file, thread);
        thread
    }

    fn maker(&self, entry: EntryId) -> Option<usize> {
        self.makers.get(entry.index()).filter(|&&maker| maker != NO_MAKER).map(|&maker| maker.into())
    }

    fn set_maker(&mut self, entry: EntryId, thread: usize) {
        if self.makers.len() <= entry.index() {
            self.makers.resize(entry.index() + 1, NO_MAKER);
        }
        self.makers[entry.index()] = thread as u8;
    }

    /// After the last entry. Answers with the links whose targets are in lower layers; each has a stand-in by now.
    fn finish_entries(&mut self) -> Result<Vec<LowerLink>> {
        let mut steps = Vec::new();
        let lower = self.planner.finish_links(&mut steps)?;
        for step in &mut steps {
            self.planner.halt.check()?;
            self.apply(step, None)?;
        }
        for whiteout in self.planner.whiteouts() {
            steps.clear();
            self.planner.absorb_whiteout(whiteout, &mut steps)?;
            for step in &mut steps {
                self.apply(step, None)?;
            }
        }
        self.writers.flush_all()?;
        Ok(lower.into_iter().map(|link| LowerLink { path: link.path, target: link.target }).collect())
    }
}

fn c_name(name: &[u8]) -> Result<Box<std::ffi::CStr>> {
    CString::new(name).map(CString::into_boxed_c_str).map_err(|_| {
        ErrorKind::Extraction { entry: Some(entry_text(name)), reason: "a name contains a NUL".to_owned() }.into()
    })
}
