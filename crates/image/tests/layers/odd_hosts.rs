//! File systems that lack one thing, made by a small FUSE program: no hard links, names that fold case, short names
//! (TRAPS 26, 27). Never a silent loss: the entry that can't be kept is named.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use microsandbox_image_core::layer::{Limits, Note, probe_host};

use crate::{
    archive::{Archive, archive},
    harness::{assert_tree, run_in},
};

const PYTHON: &str = "/usr/bin/python3";

/// A mounted odd host; unmounted at the end.
struct Host {
    at: PathBuf,
    program: Child,
    _temp: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Mounts it. `None`, with the reason printed, where that isn't possible.
fn host(quirk: &str) -> Option<Host> {
    let has_fusepy =
        Command::new(PYTHON).args(["-c", "import fusepy"]).output().is_ok_and(|done| done.status.success());
    let root = rustix::process::geteuid().is_root();
    if !root || !Path::new("/dev/fuse").exists() || !has_fusepy {
        assert!(std::env::var_os("CI").is_none() || !root || has_fusepy, "python3-fusepy must be there in CI");
        println!("skipped: root, /dev/fuse and Debian's python3-fusepy are needed to make a host of {quirk}");
        return None;
    }
    let temp = tempfile::tempdir_in(crate::harness::scratch()).unwrap();
    let (backing, at) = (temp.path().join("backing"), temp.path().join("at"));
    fs::create_dir(&backing).unwrap();
    fs::create_dir(&at).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layers/odd_host.py");
    let mut command = Command::new(PYTHON);
    command.arg(script).arg(quirk).arg(&backing).arg(&at).stdout(Stdio::null()).stderr(Stdio::inherit());
    let host = Host { program: command.spawn().unwrap(), at, _temp: temp };
    let (outside, started) = (fs::metadata(&backing).unwrap().dev(), Instant::now());
    while fs::metadata(&host.at).is_ok_and(|meta| meta.dev() == outside) {
        assert!(started.elapsed() < Duration::from_secs(20), "the host of {quirk} is not mounted");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(host)
}

/// The entry is named, in an error of this code.
#[track_caller]
fn refused(host: &Host, made: &Archive, code: &str, parts: &[&str]) {
    let error = run_in(&host.at, &made.0, Limits::default()).unpacked.expect_err("this host can't hold it");
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error} does not say {part}");
    }
}

fn without_links() -> Archive {
    archive().dir("d").file("d/f", "x").symlink("l", "d").file("d/.wh.x", "")
}

#[test]
fn a_host_without_hard_links_holds_images_that_have_none_and_names_the_link_it_can_not_make() {
    let Some(host) = host("no-links") else { return };
    probe_host(&host.at).unwrap();
    let outcome = run_in(&host.at, &without_links().end().0, Limits::default());
    assert_tree(&outcome, "d d\nf d/.wh.x\nf d/f x\nl l -> d");
    drop(outcome);
    refused(&host, &without_links().link("d/h", "d/f").end(), "ERR_CACHE", &["d/h", "makes no hard links"]);
}

#[test]
fn names_that_a_folding_host_takes_for_one_are_an_error_that_names_both() {
    let Some(host) = host("fold-case") else { return };
    let outcome = run_in(&host.at, &without_links().end().0, Limits::default());
    assert_tree(&outcome, "d d\nf d/.wh.x\nf d/f x\nl l -> d");
    drop(outcome);
    for made in [
        archive().file("d/Name", "1").file("d/name", "2"),
        archive().dir("d/Name").dir("d/name"),
        archive().file("d/Name", "1").symlink("d/name", "2"),
        archive().file("d/x", "1").file("d/Name", "1").link("d/name", "d/x"),
        archive().file("d/Name", "1").dir("d/name"),
        archive().dir("d/Name").file("d/name", "1"),
    ] {
        refused(&host, &made.end(), "ERR_EXTRACTION", &["name", "Name", "for one name"]);
    }
}

#[test]
fn a_name_that_is_too_long_for_the_host_is_named() {
    let Some(host) = host("short-names") else { return };
    let name = "n".repeat(101);
    refused(&host, &archive().long_name(name.as_bytes()).file("x", "").end(), "ERR_IO", &[&name]);
    refused(&host, &archive().long_name(name.as_bytes()).dir("x").end(), "ERR_IO", &[&name]);
}

#[test]
fn a_host_that_lists_other_inode_numbers_gets_no_index() {
    let Some(host) = host("other-inodes") else { return };
    let outcome = run_in(&host.at, &without_links().end().0, Limits::default());
    let unpacked = outcome.unpacked.as_ref().unwrap();
    assert!(unpacked.index.is_none(), "an index is never present and wrong");
    assert_eq!(unpacked.report.iter().next().unwrap().0, Note::IndexOmitted);
}
