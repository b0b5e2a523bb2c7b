//! Somebody else changes the tree while it is written: what was checked when an entry was read is checked again when it
//! is used (TRAPS 18). The harness looks at the victim and at what lies beside the tree.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use microsandbox_image_core::{
    Result,
    layer::{Limits, Source},
};

use crate::{
    archive::{Archive, archive},
    harness::{Outcome, run_from, scratch},
};

/// More than the decoder takes at once: what stands before it is done when what stands behind it is read.
const GAP: usize = 3 << 20;

/// Gives one part of an archive, changes the tree, and gives the other part.
struct Meddling<F: FnOnce(&Path) + Send> {
    parts: std::vec::IntoIter<Bytes>,
    root: PathBuf,
    /// There when the first part is on disk.
    sign: &'static str,
    meddle: Option<F>,
}

impl<F: FnOnce(&Path) + Send> Source for Meddling<F> {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if self.parts.len() == 1
            && let Some(meddle) = self.meddle.take()
        {
            let started = Instant::now();
            while !self.root.join(self.sign).exists() {
                assert!(started.elapsed() < Duration::from_secs(10), "{} does not come", self.sign);
                std::thread::sleep(Duration::from_millis(1));
            }
            meddle(&self.root);
        }
        Ok(self.parts.next())
    }
}

fn meddled(first: Archive, sign: &'static str, meddle: impl FnOnce(&Path) + Send, last: Archive) -> Outcome {
    // A large file beside the sign: the thread that makes both has no reason to wait for more.
    let gap = Path::new(sign).with_file_name("gap");
    let first = first.file_bytes(gap.as_os_str().as_encoded_bytes(), &vec![0; GAP]);
    let parts = vec![first.0.into(), last.end().0.into()];
    let source = |root: &Path| Meddling { parts: parts.into_iter(), root: root.to_owned(), sign, meddle: Some(meddle) };
    run_from(&scratch(), source, Limits::default())
}

#[track_caller]
fn is_refused(outcome: &Outcome, codes: &[&str]) {
    let error = outcome.unpacked.as_ref().expect_err("the tree is not the layer's any more");
    assert!(codes.contains(&error.code()), "{error:?}");
}

/// Puts a link to the victim in a directory's place.
fn swap(root: &Path) {
    fs::rename(root.join("d"), root.join("moved")).unwrap();
    symlink("../victim", root.join("d")).unwrap();
}

#[test]
fn a_directory_that_is_swapped_for_a_link_takes_no_file_elsewhere() {
    let outcome = meddled(archive().dir("d").file("d/1", ""), "d/1", swap, archive().file("d/2", "x"));
    is_refused(&outcome, &["ERR_EXTRACTION"]);
}

#[test]
fn a_directory_whose_handle_was_closed_is_not_opened_again_through_a_link() {
    // More directories than are kept open.
    let many = (0..300).fold(archive().dir("d"), |made, n| made.file(&format!("other/{n}/f"), "")).file("sign", "");
    let outcome = meddled(many, "sign", swap, archive().file("d/2", "x"));
    is_refused(&outcome, &["ERR_IO"]);
    assert!(!outcome.root.join("moved/2").exists());
}

#[test]
fn a_file_is_not_written_through_a_link_that_stands_in_its_place() {
    let plant = |root: &Path| symlink("../victim/file", root.join("f")).unwrap();
    let outcome = meddled(archive().file("sign", ""), "sign", plant, archive().file("f", "evil"));
    is_refused(&outcome, &["ERR_EXTRACTION"]);
}

#[test]
fn a_directory_is_not_made_through_a_link_that_stands_in_its_place() {
    let plant = |root: &Path| symlink("../victim", root.join("d")).unwrap();
    let outcome = meddled(archive().file("sign", ""), "sign", plant, archive().dir("d").file("d/f", ""));
    is_refused(&outcome, &["ERR_EXTRACTION"]);
}

#[test]
fn what_is_removed_is_not_removed_through_a_link() {
    let plant = |root: &Path| symlink("../../victim", root.join("d/planted")).unwrap();
    let first = archive().dir("d").file("d/1", "");
    let outcome = meddled(first, "d/1", plant, archive().file("d", "a file now"));
    assert_eq!(outcome.unpacked.as_ref().unwrap().entries, 1);
    assert_eq!(fs::read(outcome.root.join("d")).unwrap(), b"a file now");
}

#[test]
fn a_hard_link_never_gives_the_target_of_a_link_another_name() {
    let plant = |root: &Path| {
        fs::remove_file(root.join("f")).unwrap();
        symlink("../victim/file", root.join("f")).unwrap();
    };
    // The harness asserts that the victim has one name.
    let outcome = meddled(archive().file("f", "x"), "f", plant, archive().link("h", "f"));
    assert!(outcome.root.join("h").is_symlink() || outcome.unpacked.is_err());
}

#[test]
fn a_file_too_many_or_too_few_is_noticed_at_the_end() {
    let add = |root: &Path| fs::write(root.join("d/planted"), "x").unwrap();
    let outcome = meddled(archive().dir("d").file("d/1", ""), "d/1", add, archive().file("e", ""));
    is_refused(&outcome, &["ERR_EXTRACTION"]);
    let take = |root: &Path| fs::remove_file(root.join("d/1")).unwrap();
    let outcome = meddled(archive().dir("d").file("d/1", ""), "d/1", take, archive().file("e", ""));
    is_refused(&outcome, &["ERR_EXTRACTION"]);
}
