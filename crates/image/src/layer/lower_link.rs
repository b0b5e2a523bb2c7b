//! Hard links whose targets are in lower layers.

/// A hard link to a file that only a lower layer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerLink {
    /// Where the link is, relative to the layer's root.
    pub path: Vec<u8>,
    /// What it is a link to, relative to the image's root.
    pub target: Vec<u8>,
}
