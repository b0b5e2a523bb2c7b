//! A layer: decode (bytes → tar) → plan (entry → step, pure) → apply (step → disk), and the index made of the rows.

mod apply;
mod batch;
mod block;
mod decode;
#[cfg(any(fuzzing, feature = "doors"))]
pub mod doors;
mod extract;
mod halt;
mod implicit;
mod index;
mod limits;
mod lower_link;
mod map;
mod plan;
mod probe;
mod queue;
mod report;
mod sidecar;
mod sort;
mod spill;
mod stages;
mod stat;
#[cfg_attr(not(test), allow(dead_code, reason = "the format has more than what is read of it so far"))]
mod table;
mod tar;
mod unpack;

pub(crate) use implicit::write_list;
pub(crate) use index::{Patch, patch, renumber};
pub(crate) use limits::entry_text;
#[cfg(test)]
#[allow(unused_imports, reason = "for tests of pull and store")]
pub(crate) use table::build_table;
#[allow(unused_imports, reason = "tests of pull and store use more of it")]
pub(crate) use table::{OwnedRow, Row, RowKind, StreamSegment, Table, TableFacts, Verified};
#[allow(unused_imports, reason = "tests of pull and store use more of it")]
pub(crate) use tar::Timestamp;

pub use decode::Source;
pub use halt::Halt;
pub use index::{DirectoryRecord, EntryRecord, LayerIndex};
pub use limits::Limits;
pub use lower_link::LowerLink;
pub use probe::probe_host;
pub use report::{Note, Noted, Report};
pub use sidecar::Sidecar;
pub(crate) use stat::OVERRIDE_STAT;

pub use stages::Stages;
pub use stat::{OverrideStat, read_stat};
pub use unpack::{BlobFacts, Unpack, Unpacked, unpack};
