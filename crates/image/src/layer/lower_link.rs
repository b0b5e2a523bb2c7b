//! Hard links whose targets are in lower layers: what a layer says of them, kept beside it as a list of path pairs in the
//! form of the list of implicit directories.

use crate::{
    error::Result,
    layer::implicit::{read_list, write_list},
};

/// A hard link to a file that only a lower layer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerLink {
    /// Where the link is, relative to the layer's root.
    pub path: Vec<u8>,
    /// What it is a link to, relative to the image's root.
    pub target: Vec<u8>,
}

/// The list's bytes.
pub(crate) fn write_links(links: &[LowerLink]) -> Vec<u8> {
    let paths: Vec<Vec<u8>> = links.iter().flat_map(|link| [link.path.clone(), link.target.clone()]).collect();
    write_list(&paths)
}

/// Reads a list. Fails with `ERR_CACHE` when it is damaged.
pub(crate) fn read_links(bytes: &[u8], file: &str) -> Result<Vec<LowerLink>> {
    let paths = read_list(bytes, file)?;
    Ok(paths.chunks_exact(2).map(|pair| LowerLink { path: pair[0].clone(), target: pair[1].clone() }).collect())
}
