//! A layer into an empty directory: the whole of this module behind one call.

use std::{path::Path, sync::Arc};

use rustix::fs::{Mode, OFlags};

use crate::{
    error::{ImageError, Result},
    layer::{
        decode::Source,
        extract::{Job, extract},
        halt::Halt,
        index,
        limits::Limits,
        lower_link::LowerLink,
        report::{Note, Report},
        sidecar::Sidecar,
        spill::SpillHome,
        stages::{Stages, timed},
        table::{self, Verified},
    },
    model::Digest,
};

/// How to unpack a layer.
pub struct Unpack {
    /// What the uncompressed bytes must hash to; `None` skips that check.
    pub diff_id: Option<Digest>,
    /// What blob this is. Without it no table is made, since a table says so.
    pub blob: Option<BlobFacts>,
    /// Bounds on what is written.
    pub limits: Limits,
    /// Threads that make files; at least one.
    pub writers: usize,
    /// Whether to build the index.
    pub index: bool,
    /// Stops the work.
    pub halt: Halt,
    /// Memory for uncompressed bytes, in blocks of 1 MiB; at least 2.
    pub blocks: usize,
    /// Directories that are open at a time; at least 8.
    pub directories: usize,
}

/// What is known of the blob beside its bytes.
#[derive(Debug, Clone)]
pub struct BlobFacts {
    /// Hash of the compressed bytes.
    pub digest: Digest,
    /// Length of the compressed bytes.
    pub size: u64,
    /// As the manifest names it; empty if nobody knows.
    pub media_type: String,
}

impl Default for Unpack {
    fn default() -> Self {
        Self {
            diff_id: None,
            blob: None,
            limits: Limits::default(),
            writers: 2,
            index: true,
            halt: Halt::default(),
            blocks: 12,
            directories: 64,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Unpacked {
    /// Hash of the uncompressed bytes.
    pub diff_id: Digest,
    /// Length of the uncompressed bytes.
    pub uncompressed_bytes: u64,
    /// Entries in the tree, the root not counted.
    pub entries: u64,
    /// Directories that no entry described: relative paths, raw bytes, sorted.
    pub implicit_directories: Vec<Vec<u8>>,
    /// Hard links whose targets are in lower layers; each is an empty file until the layers are put together.
    pub lower_links: Vec<LowerLink>,
    /// The table of the layer (SPEC §8); `None` if [`Unpack::blob`] was not given.
    pub table: Option<Sidecar>,
    /// The sidecar index (SPEC §5); `None` if it was not wanted or can't express the tree.
    pub index: Option<Sidecar>,
    /// What could not be kept as it came.
    pub report: Report,
    /// Where the time went.
    pub stages: Stages,
}

/// Unpacks a layer into `directory`, which must be there and empty. Blocks; the threads it starts end with it.
///
/// Fails with `ERR_EXTRACTION` on a damaged or hostile archive, `ERR_DIGEST_MISMATCH` if the diff_id differs,
/// `ERR_LIMIT`, `ERR_NO_SPACE`, `ERR_IO`, `ERR_ABORTED`, or with an error of the source. What was written by then stays
/// in `directory` for the caller to remove.
pub fn unpack(source: impl Source, directory: &Path, how: Unpack) -> Result<Unpacked> {
    let halt = how.halt.clone();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|errno| ImageError::io("open the directory", directory, errno))?;
    let home = root.try_clone().map_err(|error| ImageError::io("open the directory", directory, error))?;
    let home = SpillHome::new(Arc::new(home));
    let extracted = extract(Job {
        source,
        root,
        home: home.clone(),
        diff_id: how.diff_id,
        limits: how.limits,
        writers: how.writers.max(1),
        halt: how.halt,
        blocks: how.blocks.max(2),
        directories: how.directories.max(8),
    })
    .map_err(|error| error.within(directory))?;
    let mut report = extracted.report;
    let expressible = how.index && extracted.inodes_are_known;
    let mut stages = extracted.stages;
    let verified = how.blob.map(|blob| Verified {
        digest: blob.digest,
        size: blob.size,
        media_type: blob.media_type,
        diff_id: extracted.diff_id.clone(),
        uncompressed_size: extracted.uncompressed,
    });
    let build = || {
        let table = verified.map(|verified| table::from_tree(&extracted.tree, &verified, &home, &halt)).transpose()?;
        let index = if expressible { index::build(&extracted.tree, &home, &halt)? } else { None };
        Ok((table, index))
    };
    let built: Result<_> = timed(&mut stages.indexing, build);
    let (table, index) = built.map_err(|error| error.within(directory))?;
    stages.elapsed += stages.indexing;
    if how.index && index.is_none() {
        report.note(Note::IndexOmitted, b"");
    }
    Ok(Unpacked {
        diff_id: extracted.diff_id,
        uncompressed_bytes: extracted.uncompressed,
        entries: extracted.tree.len() - 1,
        implicit_directories: extracted.implicit_directories,
        lower_links: extracted.lower_links,
        table,
        index,
        report,
        stages,
    })
}
