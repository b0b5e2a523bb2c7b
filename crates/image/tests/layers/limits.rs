//! Limits (TRAPS 24, 25): on what is written, each an option, each named by its error.

use std::time::Instant;

use microsandbox_image_core::layer::Limits;

use crate::{
    archive::{Header, archive},
    compression::gzip,
    harness::{assert_tree, refuses_with, run},
};

const NONE: Limits = Limits { layer_bytes: None, file_bytes: None, entries: None, depth: None };

#[test]
fn each_limit_holds_at_its_value_and_ends_above_it() {
    let made = archive().file("a/b", "12345").file("a/c", "123").end().0;
    for (limits, option) in [
        (Limits { layer_bytes: Some(7), ..NONE }, "limits.layerBytes"),
        (Limits { file_bytes: Some(4), ..NONE }, "limits.fileBytes"),
        (Limits { entries: Some(2), ..NONE }, "limits.entries"),
        (Limits { depth: Some(1), ..NONE }, "limits.depth"),
    ] {
        refuses_with(&made, limits, "ERR_LIMIT", option);
    }
    let exact = Limits { layer_bytes: Some(8), file_bytes: Some(5), entries: Some(3), depth: Some(2) };
    assert_tree(&run(&made, exact), "i a\nf a/b 12345\nf a/c 123");
    assert_tree(&run(&made, NONE), "i a\nf a/b 12345\nf a/c 123");
}

#[test]
fn bytes_count_once_they_are_read_whatever_the_header_said() {
    let header = Header::new(b'0', b"f").size(0);
    let made = archive().pax(&[("size", b"600")]).put(header, &[1; 600]).end().0;
    refuses_with(&made, Limits { file_bytes: Some(599), ..NONE }, "ERR_LIMIT", "599");
    refuses_with(&made, Limits { layer_bytes: Some(599), ..NONE }, "ERR_LIMIT", "599");
}

#[test]
fn holes_count_as_bytes_of_the_file() {
    let header = Header::new(b'S', b"s").magic(b"ustar  \0").octal(483, 12, 5_000);
    refuses_with(
        &archive().put(header, b"").end().0,
        Limits { file_bytes: Some(4_999), ..NONE },
        "ERR_LIMIT",
        "fileBytes",
    );
}

#[test]
fn bytes_that_are_in_no_file_count_too() {
    let limits = Limits { layer_bytes: Some(100_000), ..NONE };
    let zeros = vec![0; 200_000];
    refuses_with(
        &archive().put(Header::new(b'V', b"v").size(200_000), &zeros).end().0,
        limits,
        "ERR_LIMIT",
        "layerBytes",
    );
    refuses_with(&archive().end().raw(&zeros).0, limits, "ERR_LIMIT", "layerBytes");
    let comment: &[(&str, &[u8])] = &[("comment", &zeros[..60_000])];
    refuses_with(&archive().pax(comment).pax(comment).file("f", "").end().0, limits, "ERR_LIMIT", "layerBytes");
}

#[test]
fn directories_made_on_the_way_count_as_entries() {
    refuses_with(
        &archive().file("a/b/c/d", "").end().0,
        Limits { entries: Some(3), ..NONE },
        "ERR_LIMIT",
        "limits.entries",
    );
}

#[test]
fn a_path_of_a_million_components_ends_at_once() {
    let path = "a/".repeat(500_000);
    let started = Instant::now();
    refuses_with(&archive().long_name(path.as_bytes()).file("x", "").end().0, Limits::default(), "ERR_LIMIT", "128");
    let target = "a/".repeat(2000);
    let made = archive().long_link(target.as_bytes()).symlink("l", "x").file("l/f", "").end().0;
    refuses_with(&made, Limits::default(), "ERR_LIMIT", "limits.depth");
    assert!(started.elapsed().as_secs() < 2);
}

#[test]
fn a_link_that_doubles_a_path_at_each_step_ends_at_once() {
    let mut made = archive();
    for n in 0..60 {
        made = made.symlink(&format!("l{n}"), &format!("l{0}/../l{0}", n + 1));
    }
    let started = Instant::now();
    refuses_with(&made.file("l0/f", "").end().0, Limits::default(), "ERR_EXTRACTION", "loop");
    assert!(started.elapsed().as_secs() < 2);
}

#[test]
fn a_layer_of_large_attributes_takes_little_memory() {
    // 150 directories and as many files with a megabyte of attributes each, in a small blob.
    let value = vec![b'v'; 1_000_000];
    let record: &[(&str, &[u8])] = &[("SCHILY.xattr.user.large", &value)];
    let mut blob = Vec::new();
    for n in 0..150 {
        blob.extend(gzip(&archive().pax(record).dir(&format!("d{n}")).pax(record).file(&format!("f{n}"), "").0));
    }
    let before = resident();
    run(&blob, NONE).unpacked.unwrap();
    let grown = peak().saturating_sub(before);
    assert!(grown < 150 << 20, "memory grew by {} MiB", grown >> 20);
}

#[test]
fn short_names_that_stand_for_long_paths_do_not_pile_up() {
    // `l8` leads 120 directories down, so each directory made there has a path of 30 KiB.
    let down = vec!["p".repeat(250); 15].join("/");
    let mut made = archive().long_link(down.as_bytes()).symlink("l1", "x");
    for n in 2..=8 {
        made = made.long_link(format!("l{}/{down}", n - 1).as_bytes()).symlink(&format!("l{n}"), "x");
    }
    for n in 0..10_000 {
        made = made.file(&format!("l8/{n}/f"), "");
    }
    refuses_with(&made.end().0, Limits::default(), "ERR_EXTRACTION", "remembered");
}

fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn resident() -> u64 {
    status("VmRSS")
}

fn peak() -> u64 {
    status("VmHWM")
}
