//! The cache directory: every path in it, the metadata of pulled images, what counts as a hit, and
//! what may go.
//!
//! ```text
//! <cache>/layers/<d>.tar.gz            compressed blob, whatever its compression
//! <cache>/layers/<d>.tar.gz.part       unfinished download
//! <cache>/layers/<d>.<lease>.extracting/  unfinished extraction, a leftover once that lease ends
//! <cache>/layers/<d>.extracting/       the same of the original or a verification, under the layer's lock
//! <cache>/layers/<d>.extracted/        finished tree, valid with .complete at its root
//! <cache>/layers/<d>.index             sidecar index of the tree
//! <cache>/layers/<d>.implicit_dirs     directories no entry described
//! <cache>/layers/<d>.table             what the verified blob says of every entry (not known to the original)
//! <cache>/layers/<d>.<inherited>.extracted/  a tree of what some image's lower layers make it inherit, with …
//! <cache>/layers/<d>.<inherited>.index       … its index, and …
//! <cache>/layers/<d>.<inherited>.inherited   … the list that its name is the hash of
//! <cache>/layers/<d>.lock              held while extracting
//! <cache>/layers/<d>.download.lock     held while downloading
//! <cache>/layers/.trash-…              trees on their way out
//! <cache>/images/<key>.json            metadata of a pulled reference
//! <cache>/images/<key>.lock            held while that reference is pulled
//! <cache>/leases/…                     layers that somebody uses and that stay
//! <cache>/access/<key>                 a digest that a tenant's login was shown to have access to
//! ```
//! `<d>` is the layer's digest with `_` for `:`; `<key>` is the hex sha256 of the canonical reference.
//!
//! What has a final name is never written again: it is a function of its name. A hit, or another image, changes none of it;
//! a damaged tree that nobody uses is exchanged as a whole. Order of publication: table, tree, index, metadata.

mod access;
mod beside;
mod boot;
mod cache;
mod images;
mod in_use;
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
mod status;
mod sweep;
mod trash;
mod tree;
mod trust;
mod usage;
mod verify;

pub use crate::fs::LockWait;
pub use boot::Written;
pub use cache::{GlobalCache, Lookup};
pub use images::CachedImage;
pub use layout::{COMPLETE_MARKER, LayerFile, TreeFile, TreeName};
pub use lease::Lease;
pub use metadata::{CachedImageMetadata, CachedLayerMetadata};
pub use prune::{PruneOptions, PruneReport};
pub use removal::{Item, ItemKind, Reason, Recovery};
pub use remove::RemoveReport;
pub use usage::Usage;
pub use verify::{Depth, Problem, ProblemKind, Repair, SkipReason, Skipped, VerifyOptions, VerifyReport};

pub(crate) use access::AccessScope;
pub(crate) use inherited::{Holder, Inherited};
pub(crate) use metadata::FORMAT_VERSION;
pub(crate) use publish::{Scratch, Wants, publish_table, publish_tree};
pub(crate) use trash::throw_away;
pub(crate) use tree::{Walker, copy_tree, fill, open_file};
pub(crate) use verify::Rechecked;
pub(crate) use verify::Soundness;
