//! What the fuzz targets share: bytes as a source of pieces, and a directory to unpack into beside a victim.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use microsandbox_image_core::{
    Result,
    layer::{LayerIndex, Limits, Source, Unpack, Unpacked, probe_host, unpack},
};

/// Gives bytes in pieces of one length.
pub struct Pieces(pub Bytes, pub usize);

impl Pieces {
    /// Copies the bytes.
    pub fn of(bytes: &[u8], length: usize) -> Self {
        Self(Bytes::copy_from_slice(bytes), length.max(1))
    }
}

impl Source for Pieces {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let count = self.1.min(self.0.len());
        Ok((count > 0).then(|| self.0.split_to(count)))
    }
}

/// Small bounds: what a fuzzer makes must end soon.
const LIMITS: Limits =
    Limits { layer_bytes: Some(4 << 20), file_bytes: Some(1 << 30), entries: Some(400), depth: Some(64) };

/// Unpacks a layer beside a victim and asserts what must hold whatever the bytes are: nothing outside the tree changed,
/// the tree holds files and directories alone, and the index says what the disk says.
pub fn unpack_beside_victim(layer: &[u8], pieces: usize) -> Result<Unpacked> {
    let place = place();
    let (root, victim) = (place.join("tree"), place.join("victim"));
    fs::create_dir(&root).expect("the scratch directory can be written");
    let how = Unpack { limits: LIMITS, writers: 1 + pieces % 2, ..Unpack::default() };
    let unpacked = unpack(Pieces::of(layer, pieces), &root, how);
    match &unpacked {
        Ok(unpacked) => check_tree(&root, unpacked, &place),
        Err(error) => assert_ne!(error.code(), "ERR_INTERNAL", "{error}"),
    }
    fs::remove_dir_all(&root).expect("the tree can be removed");
    let beside: Vec<_> =
        fs::read_dir(&place).expect("the place is there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(beside, ["victim"], "something was made beside the tree");
    let file = fs::metadata(victim.join("file")).expect("the victim is there");
    assert_eq!((file.len(), file.nlink()), (9, 1), "the victim was changed or linked to");
    assert_eq!(fs::read_dir(&victim).expect("the victim is there").count(), 1, "something was put beside the victim");
    unpacked
}

/// A directory in memory where that can hold a tree: inputs come by the thousand.
pub fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if probe_host(memory).is_ok() { memory.to_owned() } else { std::env::temp_dir() }
}

/// A directory of this process with a victim in it.
fn place() -> PathBuf {
    let place = memory().join(format!("microsandbox-image-fuzz-{}", std::process::id()));
    let victim = place.join("victim");
    if !victim.exists() {
        fs::create_dir_all(&victim).expect("the scratch directory can be written");
        fs::write(victim.join("file"), "untouched").expect("the scratch directory can be written");
    }
    place
}

fn check_tree(root: &Path, unpacked: &Unpacked, place: &Path) {
    let index = unpacked.index.as_ref().map(|index| {
        let file = place.join("index");
        let bytes = index.to_vec().expect("the index was just written");
        fs::write(&file, bytes).expect("the scratch directory can be written");
        let index = LayerIndex::open(&file).expect("our own index can be read");
        fs::remove_file(&file).expect("it was there");
        index
    });
    let mut found = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("it can be listed").flatten() {
            found += 1;
            let (path, meta) = (entry.path(), entry.metadata().expect("it is there"));
            assert!(meta.is_dir() || meta.is_file(), "{path:?} is something else on the host");
            assert_eq!(meta.mode() & 0o7077, 0, "{path:?} is open to others");
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if meta.is_dir() {
                pending.push(path.clone());
            }
            if let Some(index) = index.as_ref().filter(|_| !name.starts_with(b".wh.")) {
                let relative = path.strip_prefix(root).expect("it is below the root").as_os_str().as_encoded_bytes();
                let record = index.lookup(relative).unwrap_or_else(|| panic!("the index lacks {path:?}"));
                assert_eq!((record.inode, record.directory.is_some()), (meta.ino(), meta.is_dir()), "{path:?}");
                if meta.is_file() {
                    assert_eq!(record.size, meta.len(), "{path:?}");
                    let names = index.hard_links(meta.ino()).len() as u64;
                    assert_eq!(names.max(1), meta.nlink(), "{path:?}");
                }
            }
        }
    }
    assert_eq!(found, unpacked.entries, "another number of entries is on disk");
}
