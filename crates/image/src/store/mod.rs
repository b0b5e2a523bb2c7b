//! The cache directory: every path in it, the metadata of pulled images, what counts as a hit, and
//! what may go.
//!
//! ```text
//! <cache>/layers/<d>.tar.gz            compressed blob, whatever its compression
//! <cache>/layers/<d>.tar.gz.part       unfinished download
//! <cache>/layers/<d>.extracting/       unfinished extraction, thrown away when found
//! <cache>/layers/<d>.extracted/        finished tree, valid with .complete at its root
//! <cache>/layers/<d>.index             sidecar index of the tree
//! <cache>/layers/<d>.implicit_dirs     directories no entry described
//! <cache>/layers/<d>.lower_links       hard links to files of lower layers (not known to the original)
//! <cache>/layers/<d>.lock              held while extracting
//! <cache>/layers/<d>.download.lock     held while downloading
//! <cache>/layers/.trash-…              trees on their way out
//! <cache>/images/<key>.json            metadata of a pulled reference
//! <cache>/images/<key>.lock            held while that reference is pulled
//! <cache>/leases/…                     layers that somebody uses and that stay
//! ```
//! `<d>` is the layer's digest with `_` for `:`; `<key>` is the hex sha256 of the canonical reference.

mod boot;
mod cache;
mod images;
#[allow(dead_code, reason = "read once trees of an image's own are published")]
mod inherited;
mod inventory;
mod last_use;
mod layout;
mod lease;
mod measure;
mod metadata;
mod prune;
mod publish;
mod removal;
mod remove;
mod settle;
mod trash;
mod trust;
#[allow(dead_code, unused_imports, reason = "called once trees of an image's own are published")]
mod tree;
mod usage;
mod verify;

pub use crate::fs::LockWait;
pub use boot::Written;
pub use cache::{GlobalCache, Lookup};
pub use images::CachedImage;
pub use layout::{COMPLETE_MARKER, LayerFile};
pub use lease::Lease;
pub use metadata::{CachedImageMetadata, CachedLayerMetadata};
pub use prune::{PruneOptions, PruneReport};
pub use removal::{Item, ItemKind, Reason};
pub use remove::RemoveReport;
pub use usage::Usage;
pub use verify::{Depth, Problem, ProblemKind, Repair, SkipReason, Skipped, VerifyOptions, VerifyReport};

pub(crate) use inherited::{Holder, Inherited};
pub(crate) use metadata::FORMAT_VERSION;
pub(crate) use publish::publish_tree;
pub(crate) use trash::throw_away;
#[allow(unused_imports, reason = "called once trees of an image's own are published")]
pub(crate) use tree::{Walker, copy_tree, fill, open_file};
pub(crate) use verify::Rechecked;
