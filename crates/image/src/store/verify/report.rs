//! What a verification found, as data.

use serde::{Deserialize, Serialize};

use crate::{
    model::Digest,
    store::{TreeName, verify::layer::Findings},
};

/// How thoroughly a cache is looked through; each depth does what the ones before do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Metadata agree with themselves; trees and their markers are there. Microseconds a layer.
    Marker,
    /// Every file of every tree is there in the length the index says; blobs have their length. A `stat` a file.
    #[default]
    Size,
    /// Blobs are hashed, and every tree is compared, byte by byte, with what its blob unpacks to.
    Content,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// Metadata that can't be read.
    DamagedMetadata,
    /// Metadata that contradict the manifest or config they hold, such as by naming other layers.
    WrongMetadata,
    /// An image names a layer that has no tree.
    MissingLayer,
    /// Something else than a directory, or one that never was a layer's, in place of a tree.
    ForeignTree,
    /// A tree without its marker.
    MissingMarker,
    /// An index without its tree.
    OrphanIndex,
    /// An index that can't be read.
    DamagedIndex,
    /// A list of what depends on lower layers that can't be read.
    DamagedList,
    /// A blob of another length or digest.
    DamagedBlob,
    /// A file that is not there.
    MissingFile,
    /// A file of another length, type, content or owner.
    WrongFile,
    /// A file that does not belong there.
    ExtraFile,
}

/// What was done about a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Repair {
    /// The layer was extracted anew from its blob.
    Extracted,
    /// What was damaged was removed; the next pull brings it in again.
    Deleted,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What is wrong.
    pub kind: ProblemKind,
    /// Where: an absolute path.
    pub path: String,
    /// The layer it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<Digest>,
    /// The images that need it, by reference or key.
    pub images: Vec<String>,
    /// What was expected and what is there.
    pub detail: String,
    /// What was done about it; `None` if nothing was.
    pub repaired: Option<Repair>,
}

/// Why a layer was not looked through as thoroughly as was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// A process is at work on it.
    Locked,
    /// There is no blob to compare its tree with.
    NoBlob,
    /// There is no index to compare its tree with.
    NoIndex,
    /// Its index has other inodes, as after copying a cache or when the original wrote it: only names were compared.
    ForeignIndex,
    /// It has the contract's names, bytes and attributes but times of the host, as the original makes trees, or the
    /// original gave it another image's directory attributes.
    MadeByOriginal,
    /// The cache can't be written, so there is no place to unpack the blob.
    ReadOnly,
}

/// A layer that was not looked through as thoroughly as was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The layer.
    pub layer: Digest,
    /// Why.
    pub reason: SkipReason,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// How thorough it was.
    pub depth: Depth,
    /// True if nothing is wrong, or nothing any more.
    pub ok: bool,
    /// Images looked at.
    pub images: u64,
    /// Layers looked at.
    pub layers: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What could not be looked at as thoroughly.
    pub skipped: Vec<Skipped>,
}

impl VerifyReport {
    /// Adds what was found of a tree that these images have.
    pub(super) fn add(&mut self, tree: &TreeName, findings: Findings, images: &[String]) {
        self.problems.extend(findings.problems.into_iter().map(|(difference, repaired)| Problem {
            kind: difference.kind,
            path: difference.path.to_string_lossy().into_owned(),
            layer: Some(tree.digest.clone()),
            images: images.to_vec(),
            detail: difference.detail,
            repaired,
        }));
        if let Some(reason) = findings.skipped {
            let skipped = Skipped { layer: tree.digest.clone(), reason };
            if !self.skipped.contains(&skipped) {
                self.skipped.push(skipped);
            }
        }
    }
}
