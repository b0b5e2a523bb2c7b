//! What the header of a table says, without the rows.

use std::{io, os::unix::fs::FileExt, path::Path};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Opened, Trust, open_trusted},
    layer::{
        sidecar::Sidecar,
        table::{
            check::read_verified,
            row::Verified,
            wire::{HAS_CROSS_LAYER, HAS_IMPLIED, HEADER, MAGIC, ROW, VERSION, u16_at, u32_at},
        },
    },
    model::Digest,
};

/// The header: what was verified of a blob, and whether trees of the layer depend on lower layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableFacts {
    pub(crate) verified: Verified,
    pub(crate) has_implied_directories: bool,
    pub(crate) has_cross_layer_links: bool,
}

impl TableFacts {
    /// Reads the header of a table; the rows and the checksum are not looked at. `None` if there is no table or its header
    /// is damaged. Fails with `ERR_CACHE` where somebody else owns it, `ERR_IO`.
    pub(crate) fn read(path: &Path, trust: &Trust) -> Result<Option<Self>> {
        let Opened::File(file, _) = open_trusted(path, trust)? else { return Ok(None) };
        match read(|bytes, at| file.read_exact_at(bytes, at)) {
            Ok(facts) => Ok(facts),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(ImageError::io("read", path, error)),
        }
    }

    /// The same of a table that was just made.
    pub(crate) fn of(table: &Sidecar) -> Result<Self> {
        let facts = read(|bytes, at| table.read_exact_at(bytes, at));
        facts.ok().flatten().ok_or_else(|| ImageError::internal("a table that was just made can't be read"))
    }

    /// True if a tree of this layer depends on the layers below it.
    pub(crate) fn inherits(&self) -> bool {
        self.has_implied_directories || self.has_cross_layer_links
    }

    /// Fails as a pull into an empty cache would, if a manifest or config says something else of the layer. False where
    /// only the blob can tell: the diff_id is of another algorithm.
    pub(crate) fn check_claims(&self, size: u64, diff_id: &Digest) -> Result<bool> {
        let mismatch = |what: &str, expected: String, actual: String| {
            Err(ErrorKind::DigestMismatch { what: what.to_owned(), expected, actual }.into())
        };
        if self.verified.size != size {
            let bytes = |size: u64| format!("{size} bytes");
            return mismatch("the layer's blob", bytes(size), bytes(self.verified.size));
        }
        let comparable = self.verified.diff_id.algorithm() == diff_id.algorithm();
        if comparable && self.verified.diff_id != *diff_id {
            let (expected, actual) = (diff_id.to_string(), self.verified.diff_id.to_string());
            return mismatch("the uncompressed layer (diff_id)", expected, actual);
        }
        Ok(comparable)
    }
}

fn read(read_at: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<Option<TableFacts>> {
    let mut header = [0; HEADER];
    read_at(&mut header, 0)?;
    if header[..4] != MAGIC || u32_at(&header, 4) != VERSION {
        return Ok(None);
    }
    let texts: usize = [48, 50, 52].into_iter().map(|at| usize::from(u16_at(&header, at))).sum();
    let mut pool = vec![0; texts];
    read_at(&mut pool, HEADER as u64 + u64::from(u32_at(&header, 16)) * ROW as u64)?;
    let flags = u32_at(&header, 8);
    Ok(read_verified(&header, &pool).map(|verified| TableFacts {
        verified,
        has_implied_directories: flags & HAS_IMPLIED != 0,
        has_cross_layer_links: flags & HAS_CROSS_LAYER != 0,
    }))
}
