//! Whiteouts, opaque directories and what other programs left (TRAPS 22, 28, 29).

use crate::{
    archive::{Header, archive},
    harness::{noted, refuses, run, unpacks},
};

#[test]
fn whiteouts_stay_as_they_came() {
    unpacks(&archive().file(".wh.a", "").file("d/.wh.b", "").end(), "f .wh.a\ni d\nf d/.wh.b");
    unpacks(&archive().file("d/.wh..wh..opq", "").end(), "i d\nf d/.wh..wh..opq");
    unpacks(&archive().file(".wh..wh..opq", "").end(), "f .wh..wh..opq");
    unpacks(&archive().file(".wh..hidden", "").end(), "f .wh..hidden");
}

#[test]
fn a_whiteout_of_any_type_is_a_whiteout() {
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6', b'7'] {
        let header = Header::new(kind, b".wh.x").link(b"/etc/passwd").device(1, 3).mode(0o644);
        unpacks(&archive().put(header, b"").end(), "f .wh.x");
    }
    let opaque = Header::new(b'5', b"d/.wh..wh..opq").mode(0o644);
    unpacks(&archive().put(opaque, b"").end(), "i d\nf d/.wh..wh..opq");
}

#[test]
fn an_entry_survives_its_own_whiteout_in_either_order() {
    for made in [archive().file(".wh.x", "").file("x", "1"), archive().file("x", "1").file(".wh.x", "")] {
        unpacks(&made.clone().end(), "f x 1");
        assert_eq!(noted(&made)["whiteout-absorbed"], 1);
    }
}

#[test]
fn a_directory_that_survives_its_whiteout_hides_the_lower_one_whole() {
    let tree = "d x\nf x/.wh..wh..opq @0\nf x/f";
    unpacks(&archive().file(".wh.x", "").dir("x").file("x/f", "").end(), tree);
    unpacks(&archive().dir("x").file("x/f", "").file(".wh.x", "").end(), tree);
    unpacks(&archive().file(".wh.x", "").dir("x").file("x/.wh..wh..opq", "").end(), "d x\nf x/.wh..wh..opq");
}

#[test]
fn an_opaque_marker_means_the_same_before_and_after_its_siblings() {
    let tree = "d d\nf d/.wh..wh..opq\nf d/f";
    unpacks(&archive().dir("d").file("d/.wh..wh..opq", "").file("d/f", "").end(), tree);
    unpacks(&archive().dir("d").file("d/f", "").file("d/.wh..wh..opq", "").end(), tree);
}

#[test]
fn a_whiteout_of_nothing_is_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."] {
        refuses(&archive().file(name, "").end(), "ERR_EXTRACTION", "whiteout");
    }
}

#[test]
fn nothing_lies_below_a_whiteout() {
    refuses(&archive().file(".wh.d/f", "").end(), "ERR_EXTRACTION", "whiteout");
    refuses(&archive().file(".wh.d", "").file(".wh.d/f", "").end(), "ERR_EXTRACTION", "whiteout");
    refuses(&archive().file("a/.wh.d/b/f", "").end(), "ERR_EXTRACTION", "whiteout");
}

#[test]
fn leftovers_of_aufs_are_ignored_with_all_below_them() {
    let made =
        archive().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "").dir("d/.wh..wh.orph");
    unpacks(&made.clone().file("f", "").end(), "f f");
    assert_eq!(noted(&made)["aufs-ignored"], 4);
}

#[test]
fn whiteouts_that_look_alike_are_ordinary_files() {
    unpacks(&archive().file(".whx", "").file(".wh", "").file("a.wh.b", "").end(), "f .wh\nf .whx\nf a.wh.b");
}

#[test]
fn a_whiteout_through_a_link_of_the_layer_lands_where_it_points() {
    unpacks(&archive().dir("usr").symlink("u", "usr").file("u/.wh.x", "").end(), "l u -> usr\nd usr\nf usr/.wh.x");
}

#[test]
fn a_link_never_brings_a_name_of_a_whiteout_in() {
    refuses(&archive().symlink("s", ".wh.d").file("s/f", "").end(), "ERR_EXTRACTION", "whiteout");
}

#[test]
fn only_directories_that_no_entry_describes_are_implicit() {
    unpacks(&archive().file("a/b/f", "").dir("a").end(), "d a\ni a/b\nf a/b/f");
    unpacks(&archive().dir("a").file("a/b/f", "").end(), "d a\ni a/b\nf a/b/f");
    unpacks(&archive().file("a/f", "").symlink("a", "b").end(), "l a -> b");
    let outcome = run(&archive().file("b/x", "").file("a/y/z", "").end().0, Default::default());
    assert_eq!(outcome.unpacked.unwrap().implicit_directories, [&b"a"[..], b"a/y", b"b"]);
}

#[test]
fn an_images_own_file_with_the_name_of_our_marker_keeps_its_content() {
    unpacks(
        &archive().file(".complete", "mine").file("d/.complete", "x").end(),
        "f .complete mine\ni d\nf d/.complete x",
    );
}
