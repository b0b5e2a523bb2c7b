//! Shapes that other programs were caught by, as public advisories and test suites describe them (node-tar, containerd,
//! moby, umoci, oras, containers/storage): each with what it becomes here.

use crate::{
    archive::{Header, archive},
    harness::{refuses, run, unpacks},
};

#[test]
fn a_directory_that_was_checked_once_is_looked_at_again_after_it_became_a_link() {
    unpacks(
        &archive().dir("d").file("d/1", "").symlink("d", "../victim").file("d/file", "x").end(),
        "l d -> ../victim\ni victim\nf victim/file x",
    );
    // By another spelling of its name.
    unpacks(
        &archive().dir("d").file("d/1", "").symlink("./d/", "/victim").file("/d//./file", "x").end(),
        "l d -> /victim\ni victim\nf victim/file x",
    );
}

#[test]
fn names_that_look_alike_are_not_one_name() {
    // Composed and decomposed, of either case, with and without a blank.
    for (one, other) in [("caf\u{e9}", "cafe\u{301}"), ("Dir", "dir"), ("d", "d "), ("\u{df}", "ss"), ("\u{212a}", "k")]
    {
        let made = archive().dir(one).symlink(other, "../victim").file(&format!("{one}/file"), "x").end();
        let outcome = run(&made.0, Default::default());
        assert_eq!(outcome.unpacked.unwrap().entries, 3, "{one} and {other}");
        assert_eq!(std::fs::read(outcome.root.join(one).join("file")).unwrap(), b"x");
    }
}

#[test]
fn separators_and_drives_of_other_systems_are_letters() {
    unpacks(&archive().file("..\\..\\victim\\file", "x").end(), "f ..\\\\..\\\\victim\\\\file x");
    unpacks(&archive().file("C:../victim", "x").end(), "i C:..\nf C:../victim x");
    unpacks(
        &archive().symlink("l", "..\\victim").file("l/f", "").end(),
        "i ..\\\\victim\nf ..\\\\victim/f\nl l -> ..\\victim",
    );
}

#[test]
fn names_of_many_dots_are_names() {
    unpacks(
        &archive().file("..a/f", "").file("a../f", "").file(".../f", "").end(),
        "i ...\nf .../f\ni ..a\nf ..a/f\ni a..\nf a../f",
    );
}

#[test]
fn roots_and_slashes_in_any_number_are_one_root() {
    for path in ["///", "/..", "/../..", "././.", "./..//", "a/../.."] {
        unpacks(&archive().dir(path).file("f", "").end(), "d .\nf f");
    }
    unpacks(&archive().file("////../victim/file", "x").end(), "i victim\nf victim/file x");
}

#[test]
fn a_link_can_not_have_the_name_of_a_root_or_parent() {
    for path in ["d/..", "..", "/", "d/../."] {
        refuses(&archive().symlink(path, "/victim").end(), "ERR_EXTRACTION", "root");
        refuses(&archive().file("f", "").link(path, "f").end(), "ERR_EXTRACTION", "root");
    }
    unpacks(&archive().dir("d").symlink("d/.", "t").end(), "l d -> t");
}

#[test]
fn chains_of_links_out_of_the_root_end_inside() {
    unpacks(
        &archive().symlink("a", "b").symlink("b", "../victim").file("a/file", "x").end(),
        "l a -> b\nl b -> ../victim\ni victim\nf victim/file x",
    );
    unpacks(
        &archive().dir("d").symlink("d/up", "..").file("d/up/up/../../victim/file", "x").end(),
        "d d\nl d/up -> ..\ni victim\nf victim/file x",
    );
}

#[test]
fn a_hard_link_through_a_link_out_of_the_root_finds_nothing_of_the_host() {
    for made in [
        archive().symlink("a", "b").symlink("b", "../victim").link("h", "a/file"),
        archive().symlink("a", "/").link("h", "a/../victim/file"),
        archive().symlink("a", "../victim/file").link("b", "a").link("h", "b/."),
    ] {
        // A link of a lower layer, or an error: never the victim, at which the harness looks.
        let outcome = run(&made.end().0, Default::default());
        assert_ne!(std::fs::read(outcome.root.join("h")).unwrap_or_default(), b"untouched");
    }
}

#[test]
fn what_is_written_to_a_second_name_of_a_link_is_not_written_through_it() {
    unpacks(
        &archive().symlink("l", "../victim/file").link("h", "l").file("h", "evil").end(),
        "f h evil\nl l -> ../victim/file",
    );
    unpacks(
        &archive().symlink("l", "../victim").link("h", "l").file("h/file", "x").end(),
        "l h -> ../victim\nh l = h\ni victim\nf victim/file x",
    );
    // Attributes neither.
    unpacks(
        &archive().file("f", "x").symlink("l", "f").put(Header::new(b'1', b"h").link(b"l").mode(0o4777), b"").end(),
        "f f x\nl h -> f\nh l = h",
    );
}

#[test]
fn a_link_that_is_replaced_by_a_directory_takes_what_comes_after() {
    unpacks(&archive().symlink("bin", "usr/bin").dir("bin").file("bin/sh", "x").end(), "d bin\nf bin/sh x");
}

#[test]
fn a_file_is_not_a_parent_by_way_of_a_link() {
    unpacks(&archive().file("f", "x").symlink("l", "f").file("l/g", "y").end(), "i f\nf f/g y\nl l -> f");
}

#[test]
fn whiteouts_of_roots_links_and_twice() {
    unpacks(&archive().file(".wh.x", "").file(".wh.x", "").end(), "f .wh.x");
    unpacks(&archive().symlink("l", "d").file("l/.wh.x", "").end(), "i d\nf d/.wh.x\nl l -> d");
    unpacks(&archive().dir("d").file(".wh.d", "").end(), "d d\nf d/.wh..wh..opq @0");
    unpacks(&archive().file("/.wh..wh..opq", "").file("../.wh.x", "").end(), "f .wh..wh..opq\nf .wh.x");
    refuses(&archive().symlink(".wh.d", "x").file(".wh.d/f", "").end(), "ERR_EXTRACTION", "whiteout");
}

#[test]
fn long_names_and_links_are_for_one_entry_and_of_their_kind() {
    // The target of a long link is no matter for a file, and does not wait for the next link.
    unpacks(&archive().long_link(b"../victim").file("f", "x").symlink("l", "t").end(), "f f x\nl l -> t");
    unpacks(&archive().long_name(b"n").dir("d").file("f", "").end(), "f f\nd n");
    unpacks(&archive().long_name(b"////").file("f", "").end(), "d . 644");
    refuses(&archive().long_name(b"n").end(), "ERR_EXTRACTION", "middle");
    refuses(&archive().long_link(b"n").end(), "ERR_EXTRACTION", "middle");
}

#[test]
fn a_pax_path_that_ends_in_a_slash_makes_a_directory() {
    unpacks(&archive().pax(&[("path", b"d/")]).put(Header::new(b'0', b"f").mode(0o755), b"").end(), "d d");
}

#[test]
fn an_empty_entry_name_is_the_root_or_refused() {
    unpacks(&archive().dir("").file("f", "").end(), "d .\nf f");
    refuses(&archive().file("", "x").end(), "ERR_EXTRACTION", "root");
    refuses(&archive().put(Header::new(b'3', b"").device(1, 3), b"").end(), "ERR_EXTRACTION", "root");
}

#[test]
fn a_directory_cannot_be_a_hard_link_in_any_spelling() {
    for target in ["d", "./d/", "d/.", "/d/../d", ".", ""] {
        refuses(&archive().dir("d").link("l", target).end(), "ERR_EXTRACTION", "directory");
    }
}
