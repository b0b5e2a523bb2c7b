//! Layers of every shape end: however large and small files follow each other, whoever waits is waited for by nobody.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use microsandbox_image_core::layer::{Halt, Unpack, probe_host, unpack};
use proptest::{collection, prelude::*};

use crate::{
    archive::{Archive, archive},
    harness::{Pieces, scratch},
};

/// Far longer than any of these layers takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Unpacks on another thread; stops it, and fails, where it does not end.
fn ends(layer: &Archive, writers: usize) -> u64 {
    let temp = tempfile::tempdir_in(scratch()).unwrap();
    probe_host(temp.path()).unwrap();
    let tree = temp.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let halt = Halt::default();
    let (done, ended) = mpsc::channel();
    let (source, how) =
        (Pieces(layer.0.clone().into(), 100_000), Unpack { writers, halt: halt.clone(), ..Unpack::default() });
    let began = Instant::now();
    let working = std::thread::spawn(move || {
        let _ = done.send(unpack(source, &tree, how).map(|unpacked| unpacked.entries));
    });
    let outcome = ended.recv_timeout(PATIENCE);
    halt.abort();
    working.join().unwrap();
    outcome.unwrap_or_else(|_| panic!("still at work after {:?}", began.elapsed())).unwrap()
}

#[test]
fn a_large_file_and_a_small_one_in_another_directory_forty_times_over_end() {
    let large = vec![7; 1 << 20];
    let pair = |layer: Archive, at: usize| {
        let layer = layer.file_bytes(format!("large/{at}").as_bytes(), &large);
        layer.file_bytes(format!("small/{at}").as_bytes(), b"ten bytes.")
    };
    let layer = (0..40).fold(archive().dir("large").dir("small"), pair).end();
    for writers in 1..=3 {
        assert_eq!(ends(&layer, writers), 82, "{writers} writers");
    }
}

#[test]
fn small_files_each_in_a_directory_of_its_own_between_large_ones_end() {
    let large = vec![7; 1 << 20];
    let pair = |layer: Archive, at: usize| {
        let layer = layer.file_bytes(format!("large/{at}").as_bytes(), &large);
        layer.file_bytes(format!("small{at}/file").as_bytes(), b"ten bytes.")
    };
    let layer = (0..60).fold(archive().dir("large"), pair).end();
    assert_eq!(ends(&layer, 2), 181);
}

/// A file's length, and the number of its directory.
fn files() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let length =
        prop_oneof![0usize..40, 0usize..3000, Just(512), (60usize << 10)..(70 << 10), (1usize << 20)..(5 << 18)];
    collection::vec((length, 0usize..12), 1..90)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_of_any_shape_ends(files in files(), writers in 1usize..4) {
        let content = vec![7; 2 << 20];
        let file = |layer: Archive, (at, &(length, directory)): (usize, &(usize, usize))| {
            layer.file_bytes(format!("d{directory}/f{at}").as_bytes(), &content[..length])
        };
        let layer = files.iter().enumerate().fold(archive(), file).end();
        let directories: std::collections::BTreeSet<_> = files.iter().map(|(_, directory)| directory).collect();
        prop_assert_eq!(ends(&layer, writers), (files.len() + directories.len()) as u64);
    }
}
