//! What one image's copy of a layer takes from the layers below it (SPEC §8): a list that stands beside a tree of its
//! own, and the key in that tree's name. The key is a hash of the list, so that list and name prove each other.
//!
//! The list: magic `MSBh`, version `u32`, then records sorted by path. A record is a byte (1 directory, 2 link), the
//! path, and for a directory the 20 bytes of its attribute, for a link the digest and the path of the file that holds
//! its bytes. Integers are little-endian; texts have a `u32` length before them.

use sha2::{Digest as _, Sha256};

use crate::{
    error::{ErrorKind, ImageError, Result},
    layer::OverrideStat,
    model::Digest,
};

const MAGIC: &[u8; 4] = b"MSBh";
const VERSION: u32 = 1;
const DIRECTORY: u8 = 1;
const LINK: u8 = 2;
const TYPE_BITS: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;

/// The file that holds a cross-layer link's bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    /// The layer it is in.
    pub(crate) digest: Digest,
    /// Where in that layer; never itself a link to a lower layer.
    pub(crate) path: Vec<u8>,
}

/// What a layer inherits, each list sorted by path. Paths are raw bytes, relative to the layer's root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// Directories no entry described, with the attribute they get.
    pub(crate) directories: Vec<(Vec<u8>, OverrideStat)>,
    /// Hard links to files of lower layers.
    pub(crate) links: Vec<(Vec<u8>, Holder)>,
}

impl Inherited {
    /// 32 hexadecimal digits that stand for the list.
    pub(crate) fn key(&self) -> String {
        let mut hasher = Sha256::new();
        self.write(|bytes| hasher.update(bytes));
        hex::encode(&hasher.finalize()[..16])
    }

    /// The list's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut list = Vec::new();
        self.write(|bytes| list.extend_from_slice(bytes));
        list
    }

    fn write(&self, mut put: impl FnMut(&[u8])) {
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        let (mut directories, mut links) = (self.directories.iter().peekable(), self.links.iter().peekable());
        loop {
            let directory_is_next = match (directories.peek(), links.peek()) {
                (None, None) => return,
                (Some((directory, _)), Some((link, _))) => directory <= link,
                (directory, _) => directory.is_some(),
            };
            if directory_is_next {
                let Some((path, stat)) = directories.next() else { return };
                put(&[DIRECTORY]);
                put_text(&mut put, path);
                put(&stat.to_bytes());
            } else {
                let Some((path, holder)) = links.next() else { return };
                put(&[LINK]);
                put_text(&mut put, path);
                put_text(&mut put, holder.digest.to_string().as_bytes());
                put_text(&mut put, &holder.path);
            }
        }
    }

    /// Reads a list. Fails with `ERR_CACHE` on anything [`to_bytes`](Self::to_bytes) would not have written.
    pub(crate) fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        parse(bytes).map_err(|reason| ErrorKind::Cache { path: file.to_owned(), reason: reason.to_owned() }.into())
    }

    /// Fails with `ERR_CACHE` where `key` is not this list's.
    pub(crate) fn check_key(&self, key: &str, file: &str) -> Result<(), ImageError> {
        if self.key() == key {
            return Ok(());
        }
        Err(ErrorKind::Cache { path: file.to_owned(), reason: "the list is not the one its name stands for".into() }
            .into())
    }
}

fn put_text(put: &mut impl FnMut(&[u8]), text: &[u8]) {
    put(&u32::try_from(text.len()).expect("a path is shorter than 4 GiB").to_le_bytes());
    put(text);
}

fn parse(bytes: &[u8]) -> Result<Inherited, &'static str> {
    let mut rest = Rest(bytes);
    if rest.take(4)? != MAGIC {
        return Err("it is no list of inherited values");
    }
    if rest.word()? != VERSION {
        return Err("the list has an unknown version");
    }
    let mut inherited = Inherited::default();
    let mut last: &[u8] = b"";
    while !rest.0.is_empty() {
        let kind = rest.take(1)?[0];
        let path = rest.path()?;
        // No record has the empty path, so the first is in order as well.
        if path <= last {
            return Err("the list is not sorted");
        }
        last = path;
        match kind {
            DIRECTORY => {
                let attribute = rest.take(20)?;
                let stat = OverrideStat::from_bytes(attribute)
                    .filter(|stat| stat.to_bytes() == attribute && stat.mode & TYPE_BITS == S_IFDIR)
                    .ok_or("a directory of the list has no valid attribute")?;
                inherited.directories.push((path.to_vec(), stat));
            }
            LINK => {
                let text = std::str::from_utf8(rest.text()?).map_err(|_| "a digest of the list is none")?;
                let digest = Digest::parse(text).map_err(|_| "a digest of the list is none")?;
                inherited.links.push((path.to_vec(), Holder { digest, path: rest.path()?.to_vec() }));
            }
            _ => return Err("the list has a record of an unknown kind"),
        }
    }
    Ok(inherited)
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("the list is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u32, &'static str> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.word()?;
        self.take(length as usize)
    }

    fn path(&mut self) -> Result<&'a [u8], &'static str> {
        let path = self.text()?;
        let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
        if path.split(|&byte| byte == b'/').all(plain) { Ok(path) } else { Err("a path in the list leads elsewhere") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Algorithm;

    fn stat(uid: u32) -> OverrideStat {
        OverrideStat { uid, gid: 7, mode: 0o040_700, rdev: 0 }
    }

    fn inherited() -> Inherited {
        let digest = Digest::of(Algorithm::Sha256, b"lower");
        Inherited {
            directories: vec![(b"a".to_vec(), stat(1)), (b"a/b\xff".to_vec(), stat(2)), (b"z".to_vec(), stat(3))],
            links: vec![(b"a/c".to_vec(), Holder { digest, path: b"usr/lib/c".to_vec() })],
        }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        for inherited in [inherited(), Inherited::default()] {
            assert_eq!(Inherited::parse(&inherited.to_bytes(), "x").unwrap(), inherited);
        }
    }

    #[test]
    fn the_key_is_the_hash_of_the_list_and_every_value_counts() {
        let one = inherited();
        let key = one.key();
        assert_eq!(key.len(), 32);
        assert_eq!(key, Digest::of(Algorithm::Sha256, &one.to_bytes()).hex()[..32]);
        let mut changed = vec![one.clone(); 4];
        changed[0].directories[0].1.gid = 8;
        changed[1].directories.pop();
        changed[2].links[0].1.path = b"usr/lib/d".to_vec();
        changed[3].links[0].1.digest = Digest::of(Algorithm::Sha256, b"other");
        for other in changed {
            assert_ne!(other.key(), key);
            assert_eq!(other.check_key(&key, "x").unwrap_err().code(), "ERR_CACHE");
        }
        one.check_key(&key, "x").unwrap();
    }

    #[test]
    fn a_path_can_not_pass_for_two() {
        let directories = |paths: &[&str]| Inherited {
            directories: paths.iter().map(|path| (path.as_bytes().to_vec(), stat(0))).collect(),
            links: Vec::new(),
        };
        assert_ne!(directories(&["a", "b"]).key(), directories(&["a\u{1}b"]).key());
    }

    #[test]
    fn no_cut_of_a_list_and_no_changed_length_passes() {
        let whole = inherited().to_bytes();
        for end in 0..whole.len() {
            if let Ok(read) = Inherited::parse(&whole[..end], "x") {
                // A cut between two records is told by the key alone.
                assert_eq!(read.to_bytes(), whole[..end]);
                assert!(read.check_key(&inherited().key(), "x").is_err());
            }
        }
        let mut long = whole.clone();
        long[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Inherited::parse(&long, "x").unwrap_err().code(), "ERR_CACHE");
    }

    #[test]
    fn what_would_not_have_been_written_is_refused() {
        let list = |directories: &[(&str, u32)], holder: &str| {
            let mut inherited = inherited();
            inherited.directories = directories
                .iter()
                .map(|(path, mode)| (path.as_bytes().to_vec(), OverrideStat { mode: *mode, ..stat(0) }))
                .collect();
            inherited.links[0].1.path = holder.as_bytes().to_vec();
            inherited.to_bytes()
        };
        let mut padded = list(&[("a", 0o040_700)], "x");
        padded[8 + 1 + 4 + 1 + 1] = 1;
        for bad in [
            list(&[("b", 0o040_700), ("a", 0o040_700)], "x"),
            list(&[("a/c", 0o040_700)], "x"),
            list(&[("a", 0o100_700)], "x"),
            list(&[("../a", 0o040_700)], "x"),
            list(&[("", 0o040_700)], "x"),
            list(&[("a", 0o040_700)], "/etc/passwd"),
            list(&[("a", 0o040_700)], "x/../../y"),
            padded,
            b"MSBi\x01\0\0\0".to_vec(),
            b"MSBh\x02\0\0\0".to_vec(),
            b"MSBh\x01\0\0\0\x03\x01\0\0\0a".to_vec(),
        ] {
            assert_eq!(Inherited::parse(&bad, "x").unwrap_err().code(), "ERR_CACHE");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_what_passes_is_written_alike(bytes: Vec<u8>) {
            let hostile = [&b"MSBh\x01\0\0\0"[..], &bytes].concat();
            if let Ok(read) = Inherited::parse(&hostile, "x") {
                proptest::prop_assert_eq!(read.to_bytes(), hostile);
            }
        }
    }
}
