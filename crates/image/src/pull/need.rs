//! How much room layers take on the disk, from what a manifest says of them. Pure.

/// Uncompressed bytes for a compressed one, as images of distributions and languages have them.
const EXPANSION: u64 = 3;

/// A layer whose tree is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Length of its blob.
    size: u64,
    /// Bytes of the blob that the cache lacks.
    to_come: u64,
    /// True if the blob is compressed.
    compressed: bool,
}

impl Wanted {
    pub(super) fn new(size: u64, to_come: u64, media_type: Option<&str>) -> Self {
        let compressed = media_type.is_none_or(|text| text.ends_with("gzip") || text.ends_with("zstd"));
        Self { size, to_come, compressed }
    }
}

/// Bytes without which a pull of these layers can't succeed: what is still to come, and for each tree as much as its
/// compressed blob has. A tree is no smaller than that, since its files are what was compressed; of a plain archive
/// nothing is known, it may be headers alone.
pub(super) fn least(wanted: &[Wanted], keep_blobs: bool) -> u64 {
    let compressed = || wanted.iter().filter(|layer| layer.compressed);
    if keep_blobs {
        let to_come: u64 = sum(wanted.iter().map(|layer| layer.to_come));
        return to_come.saturating_add(sum(compressed().map(|layer| layer.size)));
    }
    // In the end the trees stand in place of the blobs; some blob has to be there with its tree before.
    let trees = sum(compressed().map(|layer| layer.to_come));
    let largest = wanted.iter().map(|layer| layer.to_come).max().unwrap_or(0);
    trees.max(largest)
}

/// Bytes that a pull of these layers takes, as far as can be guessed: what is still to come, and for each tree three times
/// its compressed blob, or the length of a plain archive. Blobs that are not kept don't count, but for the largest, which
/// is there with its tree for a moment.
pub(super) fn estimate(wanted: &[Wanted], keep_blobs: bool) -> u64 {
    let trees = sum(wanted
        .iter()
        .map(|layer| if layer.compressed { layer.size.saturating_mul(EXPANSION) } else { layer.size }));
    let blobs = if keep_blobs {
        sum(wanted.iter().map(|layer| layer.to_come))
    } else {
        wanted.iter().map(|layer| layer.to_come).max().unwrap_or(0)
    };
    trees.saturating_add(blobs)
}

/// Inodes without which a pull of so many layers can't succeed: for each the blob, the tree and its marker.
pub(super) fn least_inodes(layers: usize) -> u64 {
    layers as u64 * 3
}

fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GZIP: Option<&str> = Some("application/vnd.oci.image.layer.v1.tar+gzip");
    const PLAIN: Option<&str> = Some("application/vnd.oci.image.layer.v1.tar");

    #[test]
    fn at_least_what_is_to_come_and_the_compressed_length_of_each_tree() {
        let layers = [Wanted::new(100, 100, GZIP), Wanted::new(50, 20, GZIP), Wanted::new(40, 0, GZIP)];
        assert_eq!(least(&layers, true), 120 + 190);
        assert_eq!(least(&layers, false), 120);
        assert_eq!(least(&[Wanted::new(100, 30, PLAIN)], true), 30);
        assert_eq!(least(&[Wanted::new(100, 30, PLAIN)], false), 30);
        assert_eq!(least(&[], true), 0);
    }

    #[test]
    fn an_estimate_is_never_less_than_what_is_needed_at_least() {
        let layers = [Wanted::new(100, 100, GZIP), Wanted::new(50, 20, PLAIN), Wanted::new(40, 0, None)];
        assert_eq!(estimate(&layers, true), 120 + 300 + 50 + 120);
        assert_eq!(estimate(&layers, false), 100 + 300 + 50 + 120);
        for keep in [true, false] {
            assert!(estimate(&layers, keep) >= least(&layers, keep));
        }
    }

    #[test]
    fn sizes_that_no_disk_has_do_not_overflow() {
        let layers = [Wanted::new(u64::MAX, u64::MAX, GZIP); 3];
        assert_eq!((least(&layers, true), estimate(&layers, true)), (u64::MAX, u64::MAX));
    }
}
