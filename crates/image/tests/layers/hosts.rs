//! File systems that can't hold a layer, on loop mounts: found before or at the entry, never a silent loss (TRAPS 26, 27).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use microsandbox_image_core::layer::{Limits, probe_host};

use crate::{
    archive::{Archive, archive},
    harness::{assert_tree, run_in},
};

/// A mounted file system; unmounted at the end.
struct Mount {
    at: PathBuf,
    _temp: tempfile::TempDir,
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Makes and mounts a file system in a file. `None`, with the reason printed, where that isn't possible.
fn mount(size: u64, make: &[&str], options: &str) -> Option<Mount> {
    let temp = tempfile::tempdir().unwrap();
    let (image, at) = (temp.path().join("image"), temp.path().join("at"));
    fs::create_dir(&at).unwrap();
    fs::File::create(&image).unwrap().set_len(size).unwrap();
    // `-t KIND` is one that lives in memory and is not made.
    let in_memory = make.first() == Some(&"-t");
    let made = in_memory || ran(Command::new(make[0]).args(&make[1..]).arg(&image));
    let source = if in_memory { Path::new("none") } else { &image };
    let kind = if in_memory { make } else { &[] };
    let mounted = made && ran(Command::new("mount").args(kind).args(["-o", options]).arg(source).arg(&at));
    if mounted {
        return Some(Mount { at, _temp: temp });
    }
    assert!(std::env::var_os("CI").is_none() || !is_root(), "{make:?} with {options} must work in CI");
    println!(
        "skipped: {make:?} with {options} can't be made and mounted here (needs root, the program and loop devices)"
    );
    None
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn ran(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn code_in(mount: &Mount, made: &Archive) -> (String, String) {
    let error = run_in(&mount.at, &made.0, Limits::default()).unpacked.expect_err("this can't fit");
    (error.code().to_owned(), error.to_string())
}

#[test]
fn a_full_disk_is_a_typed_error() {
    let Some(mount) = mount(4 << 20, &["mkfs.ext4", "-q", "-F"], "loop") else { return };
    let (code, text) = code_in(&mount, &archive().file_bytes(b"d/large", &vec![7; 8 << 20]).end());
    assert_eq!(code, "ERR_NO_SPACE", "{text}");
    assert!(text.contains("tree/d/large"), "{text}");
}

#[test]
fn a_disk_without_inodes_is_a_typed_error() {
    let Some(mount) = mount(8 << 20, &["mkfs.ext4", "-q", "-F", "-N", "32"], "loop") else { return };
    let made = (0..100).fold(archive(), |made, n| made.file(&format!("f{n}"), "")).end();
    assert_eq!(code_in(&mount, &made).0, "ERR_NO_SPACE");
}

#[test]
fn names_that_a_folding_host_takes_for_one_are_an_error_that_names_both() {
    if !Path::new("/sys/fs/ext4/features/casefold").exists() {
        println!("skipped: this kernel's ext4 can't fold case");
        return;
    }
    let Some(mount) = mount(16 << 20, &["mkfs.ext4", "-q", "-F", "-O", "casefold"], "loop") else { return };
    let folding = mount.at.join("folding");
    fs::create_dir(&folding).unwrap();
    if !ran(Command::new("chattr").arg("+F").arg(&folding)) {
        assert!(std::env::var_os("CI").is_none(), "chattr +F must work in CI");
        println!("skipped: this kernel's ext4 can't fold case");
        return;
    }
    let mount = Mount { at: folding, _temp: tempfile::tempdir().unwrap() };
    for made in [
        archive().file("d/Name", "1").file("d/name", "2"),
        archive().dir("d/Name").dir("d/name"),
        archive().file("d/Name", "1").symlink("d/name", "2"),
        archive().file("d/x", "1").file("d/Name", "1").link("d/name", "d/x"),
        archive().file("d/Name", "1").dir("d/name"),
    ] {
        let (code, text) = code_in(&mount, &made.end());
        assert_eq!(code, "ERR_EXTRACTION", "{text}");
        assert!(text.contains("name") && text.contains("Name"), "{text}");
    }
}

#[test]
fn a_host_without_user_attributes_is_found_before_anything_is_downloaded() {
    let Some(mount) = mount(0, &["-t", "ramfs"], "mode=700") else { return };
    let error = probe_host(&mount.at).unwrap_err();
    assert_eq!(error.code(), "ERR_CACHE");
    assert!(error.to_string().contains("extended attributes"), "{error}");
    assert_eq!(fs::read_dir(&mount.at).unwrap().count(), 0, "the probe left something");
}

#[test]
fn a_read_only_host_is_found_before_anything_is_downloaded() {
    let Some(mount) = mount(4 << 20, &["mkfs.ext4", "-q", "-F"], "loop,ro") else { return };
    assert_eq!(probe_host(&mount.at).unwrap_err().code(), "ERR_IO");
}

#[test]
fn other_file_systems_hold_a_layer_or_are_refused_by_the_probe() {
    let made = archive().dir("d").file("d/f", "x").link("d/h", "d/f").symlink("l", "d").file("d/.wh.x", "").end();
    for (size, make) in [
        (128 << 20, &["mkfs.btrfs", "-q"][..]),
        (512 << 20, &["mkfs.xfs", "-q"]),
        (16 << 20, &["mkfs.ext4", "-q", "-F"]),
        (0, &["-t", "tmpfs"]),
    ] {
        let Some(mount) = mount(size, make, if size == 0 { "size=16m" } else { "loop" }) else { continue };
        match probe_host(&mount.at) {
            Ok(()) => {
                let outcome = run_in(&mount.at, &made.0, Limits::default());
                assert_tree(&outcome, "d d\nf d/.wh.x\nf d/f x\nh d/h = d/f\nl l -> d");
            }
            Err(error) => assert_eq!(error.code(), "ERR_CACHE", "{make:?}"),
        }
    }
}
