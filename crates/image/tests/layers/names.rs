//! Names: absolute ones, `..`, symbolic links on the way, odd bytes, long ones (TRAPS 18, 19).

use crate::{
    archive::{Header, archive},
    harness::{refuses, unpacks},
};

#[test]
fn absolute_names_are_relative_to_the_image() {
    unpacks(&archive().file("/etc/passwd", "x").end(), "i etc\nf etc/passwd x");
    unpacks(&archive().file("////a", "x").end(), "f a x");
    unpacks(&archive().dir("/").file("/a", "").end(), "d .\nf a");
}

#[test]
fn dots_in_a_name_mean_nothing() {
    unpacks(&archive().dir("./").dir("./a/./").file("./a/.//f", "x").end(), "d .\nd a\nf a/f x");
    unpacks(&archive().dir(".").end(), "d .");
    unpacks(&archive().file("a/.", "x").end(), "f a x");
}

#[test]
fn two_dots_can_not_climb_above_the_root() {
    for name in ["../victim/file", "../../../../victim/file", "/../victim/file", "victim/../../victim/file"] {
        unpacks(&archive().file(name, "x").end(), "i victim\nf victim/file x");
    }
    unpacks(&archive().dir("a/").file("a/../f", "x").end(), "d a\nf f x");
    unpacks(&archive().dir("..").end(), "d .");
    unpacks(&archive().dir("a/b").dir("a/b/..").end(), "d a\nd a/b");
}

#[test]
fn a_file_can_not_be_the_root() {
    for name in [".", "..", "a/..", ""] {
        refuses(&archive().file(name, "x").end(), "ERR_EXTRACTION", "root");
    }
    refuses(&archive().symlink("./", "/etc").end(), "ERR_EXTRACTION", "root");
    refuses(&archive().file("a", "").link(".", "a").end(), "ERR_EXTRACTION", "root");
}

#[test]
fn a_parent_that_is_a_link_of_the_layer_leads_where_it_points() {
    unpacks(
        &archive().dir("usr/").dir("usr/lib/").symlink("lib", "usr/lib").file("lib/x", "x").end(),
        "l lib -> usr/lib\nd usr\nd usr/lib\nf usr/lib/x x",
    );
    unpacks(
        &archive().dir("run").dir("var").symlink("var/run", "/run").file("var/run/pid", "1").end(),
        "d run\nf run/pid 1\nd var\nl var/run -> /run",
    );
    unpacks(
        &archive().dir("a").dir("a/b").symlink("a/up", "../c").dir("c").file("a/up/f", "").end(),
        "d a\nd a/b\nl a/up -> ../c\nd c\nf c/f",
    );
}

#[test]
fn a_parent_that_is_a_link_to_nothing_yet_makes_what_it_points_to() {
    unpacks(
        &archive().symlink("lib", "usr/lib").file("lib/x", "x").end(),
        "l lib -> usr/lib\ni usr\ni usr/lib\nf usr/lib/x x",
    );
}

#[test]
fn links_on_the_way_never_lead_out_of_the_root() {
    for target in ["..", "../victim", "../../../..", "/", "/..", "/../victim", "./.."] {
        let archive = archive().symlink("out", target).file("out/victim/file", "x").end();
        let outcome = crate::harness::run(&archive.0, Default::default());
        outcome.unpacked.unwrap();
        assert!(outcome.root.join("out").is_file());
    }
    unpacks(
        &archive().symlink("a", "../victim").file("a/file", "x").end(),
        "l a -> ../victim\ni victim\nf victim/file x",
    );
    unpacks(
        &archive().dir("d").symlink("d/a", "../../../victim").file("d/a/file", "x").end(),
        "d d\nl d/a -> ../../../victim\ni victim\nf victim/file x",
    );
}

#[test]
fn two_dots_behind_a_link_start_from_where_it_points() {
    unpacks(
        &archive().dir("a").dir("a/b").symlink("l", "a/b").file("l/../f", "x").end(),
        "d a\nd a/b\nf a/f x\nl l -> a/b",
    );
}

#[test]
fn a_name_is_resolved_anew_when_a_link_came_in_between() {
    // `x/../a` is `a` while there is no `x`, and `usr/a` once `x` points to `usr/lib`.
    unpacks(
        &archive().dir("usr").dir("usr/lib").file("x/../a/1", "").symlink("x", "usr/lib").file("x/../a/2", "").end(),
        "i a\nf a/1\nd usr\ni usr/a\nf usr/a/2\nd usr/lib\nl x -> usr/lib",
    );
}

#[test]
fn a_directory_that_becomes_a_link_no_longer_takes_files() {
    unpacks(&archive().dir("d").file("d/1", "").symlink("d", "/e").file("d/2", "").end(), "l d -> /e\ni e\nf e/2");
}

#[test]
fn loops_of_links_are_refused_in_a_parent_and_kept_as_links() {
    refuses(&archive().symlink("a", "b").symlink("b", "a").file("a/f", "").end(), "ERR_EXTRACTION", "loop");
    refuses(&archive().symlink("a", "a").file("a/f", "").end(), "ERR_EXTRACTION", "loop");
    refuses(&archive().symlink("a", "a/b").file("a/f", "").end(), "ERR_EXTRACTION", "loop");
    unpacks(&archive().symlink("a", "b").symlink("b", "a").end(), "l a -> b\nl b -> a");
}

#[test]
fn names_are_kept_byte_by_byte() {
    unpacks(&archive().file_bytes(b"\xff\xfe\x80", b"x").end(), "f \\xff\\xfe\\x80 x");
    unpacks(&archive().file("new\nline \"quote\" \\ back", "").end(), "f new\\nline \\\"quote\\\" \\\\ back");
    unpacks(&archive().file("C:\\Windows\\x", "").file("C:/x", "").end(), "i C:\nf C:/x\nf C:\\\\Windows\\\\x");
    unpacks(&archive().file("-rf", "").file("a b", "").file("...", "").end(), "f -rf\nf ...\nf a b");
    unpacks(&archive().file("e\u{301}", "1").file("\u{e9}", "2").end(), "f e\\xcc\\x81 1\nf \\xc3\\xa9 2");
    unpacks(&archive().file("CON", "").file("con", "").file("aux.txt.", "").end(), "f CON\nf aux.txt.\nf con");
}

#[test]
fn a_name_ends_at_its_nul() {
    unpacks(&archive().file("safe\0/../../victim", "x").end(), "f safe x");
}

#[test]
fn the_prefix_of_ustar_stands_before_the_name() {
    unpacks(&archive().put(Header::new(b'0', b"f").prefix(b"a/b"), b"").end(), "i a\ni a/b\nf a/b/f");
    unpacks(&archive().put(Header::new(b'0', b"victim/file").prefix(b"/.."), b"").end(), "i victim\nf victim/file");
    // GNU keeps times where ustar has the prefix, star in its last bytes.
    let gnu = Header::new(b'0', b"f").prefix(b"12345670").magic(b"ustar  \0");
    unpacks(&archive().put(gnu, b"").end(), "f f");
    let star = Header::new(b'0', b"f").prefix(b"p").bytes(476, 12, b"07777777777").bytes(508, 4, b"tar\0");
    unpacks(&archive().put(star, b"").end(), "i p\nf p/f");
}

#[test]
fn names_of_255_bytes_fit_and_longer_ones_are_refused() {
    let name = "n".repeat(255);
    unpacks(&archive().long_name(name.as_bytes()).file("x", "").end(), &format!("f {name}"));
    let longer = "n".repeat(256);
    refuses(&archive().long_name(longer.as_bytes()).file("x", "").end(), "ERR_EXTRACTION", "255");
    refuses(&archive().pax(&[("path", format!("{longer}/f").as_bytes())]).file("x", "").end(), "ERR_EXTRACTION", "255");
}

#[test]
fn a_path_longer_than_any_system_call_takes_is_made_step_by_step() {
    let path = vec!["d".repeat(200); 60].join("/");
    let outcome = crate::harness::run(&archive().long_name(path.as_bytes()).dir("x").end().0, Default::default());
    assert_eq!(outcome.unpacked.unwrap().entries, 60);
}
