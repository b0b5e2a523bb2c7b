//! Whiteout names (OCI image-spec, layer.md, "Whiteouts"): files that say what a layer removes.

use crate::{error::Result, layer::plan::resolve::unusable};

pub(crate) const PREFIX: &[u8] = b".wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name says about removal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whiteout<'a> {
    /// An ordinary name.
    No,
    /// Hides this name of lower layers.
    Hides(&'a [u8]),
    /// Hides all that lower layers have in this directory.
    Opaque,
    /// A leftover of the AUFS storage driver.
    Aufs,
}

/// True for a leftover of AUFS, such as the directory `.wh..wh.plnk`.
pub(crate) fn is_aufs(name: &[u8]) -> bool {
    matches!(read(name, name), Ok(Whiteout::Aufs))
}

/// Reads a name. Fails on a whiteout of nothing, of `.` or of `..`.
pub(crate) fn read<'a>(name: &'a [u8], path: &[u8]) -> Result<Whiteout<'a>> {
    match name.strip_prefix(PREFIX) {
        None => Ok(Whiteout::No),
        Some(b"" | b"." | b"..") => Err(unusable(path, "it is a whiteout that names nothing it could hide")),
        Some(_) if name == OPAQUE => Ok(Whiteout::Opaque),
        Some(hidden) if hidden.starts_with(PREFIX) => Ok(Whiteout::Aufs),
        Some(hidden) => Ok(Whiteout::Hides(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, meaning) in [
            (&b"x"[..], Whiteout::No),
            (b".whx", Whiteout::No),
            (b".wh.x", Whiteout::Hides(b"x")),
            (b".wh..x", Whiteout::Hides(b".x")),
            (b".wh..wh..opq", Whiteout::Opaque),
            (b".wh..wh.plnk", Whiteout::Aufs),
            (b".wh..wh.aufs", Whiteout::Aufs),
        ] {
            assert_eq!(read(name, name).unwrap(), meaning);
        }
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(read(bad, bad).unwrap_err().code(), "ERR_EXTRACTION");
        }
    }
}
