//! Other opinions: the same one-layer images unpacked by `umoci`, as root and without, and by containerd, compared with
//! ours in path, type, mode, owner, device, target, content, hard-link groups, times and attributes.
//!
//! Needs root, since the others make real owners and devices, and both programs; else it prints why it is skipped.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]
#![allow(dead_code, unreachable_pub, reason = "the archives are made as in the tests of layers, which use more")]

#[path = "../layers/archive.rs"]
mod archive;
mod layout;
mod others;
mod rows;

use archive::{Archive, Header, archive};
use bytes::Bytes;
use microsandbox_image_core::{
    Result,
    layer::{Source, Unpack, unpack},
};
use rows::Rows;

struct Once(Option<Bytes>);

impl Source for Once {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.take())
    }
}

fn ours(made: &Archive) -> Rows {
    let temp = tempfile::tempdir().unwrap();
    let unpacked = unpack(Once(Some(made.0.clone().into())), temp.path(), Unpack::default()).unwrap();
    let mut rows = rows::of_cache(temp.path());
    // What nobody described has the time at which each program made it.
    for path in unpacked.implicit_directories {
        rows.get_mut(&path).unwrap().mtime = None;
    }
    rows
}

/// Compares with both.
#[track_caller]
fn agrees(name: &str, made: &Archive) {
    if !rustix::process::geteuid().is_root() || !others::are_here() {
        assert!(std::env::var_os("CI").is_none(), "root, umoci and containerd must be there in CI");
        println!("skipped: root, umoci and containerd are needed to compare {name}");
        return;
    }
    let ours = ours(made);
    agrees_rootless(name, made, &ours);
    for (program, theirs) in [("umoci", others::umoci(made)), ("containerd", others::containerd(made))] {
        let mut theirs = theirs.unwrap_or_else(|error| panic!("{program} refuses {name}: {error}"));
        for (path, row) in &ours {
            if let (None, Some(their)) = (row.mtime, theirs.get_mut(path)) {
                their.mtime = None;
            }
        }
        rows::assert_alike(&format!("{name}, {program}"), &ours, &theirs);
    }
}

/// Compares with umoci as a user without rights. Like us it writes down what it can't do; the intended differences:
/// - it keeps the owner of a symbolic link nowhere;
/// - a device is an empty file of which it forgets type and numbers, and a pipe is a real one; all are data to us.
///
/// Paths, modes, owners, content, targets, hard links, times and attributes are the same.
#[track_caller]
fn agrees_rootless(name: &str, made: &Archive, ours: &Rows) {
    let mut theirs = others::umoci_rootless(made).unwrap_or_else(|error| panic!("umoci refuses {name}: {error}"));
    for (path, row) in ours {
        let Some(their) = theirs.get_mut(path) else { continue };
        match row.mode & 0o170_000 {
            0o120_000 => their.owner = row.owner,
            0o020_000 | 0o060_000 => {
                assert_eq!((their.mode & 0o170_000, their.device), (0o100_000, (0, 0)), "{name}");
                their.mode = their.mode & 0o7777 | row.mode & 0o170_000;
                (their.device, their.content) = (row.device, row.content.clone());
            }
            _ => {}
        }
        if row.mtime.is_none() {
            their.mtime = None;
        }
    }
    rows::assert_alike(&format!("{name}, umoci without root"), ours, &theirs);
}

#[test]
fn ordinary_files_directories_and_links_are_as_others_unpack_them() {
    let header = |kind, path: &str| Header::new(kind, path.as_bytes());
    let made = archive()
        .put(header(b'5', "etc").mtime(1_111_111_111), b"")
        .put(header(b'0', "etc/shadow").mode(0o640).gid(42).size(5), b"root:")
        .put(header(b'5', "tmp").mode(0o1777), b"")
        .put(header(b'0', "su").mode(0o4755).mtime(0).size(1), b"x")
        .put(header(b'0', "wall").mode(0o2755).gid(5), b"")
        .put(header(b'0', "user").uid(1000).gid(1000).size(3), b"abc")
        .put(header(b'0', "far").base256(108, 8, 3_000_000_000).base256(116, 8, 2_500_000), b"")
        .symlink("bin", "usr/bin")
        .put(header(b'2', "owned").link(b"/dangling").uid(7).gid(8).mtime(99), b"")
        .file("etc/a", "one")
        .link("etc/b", "etc/a")
        .link("c", "etc/b")
        .link("bin-too", "bin")
        .file("implicit/deeper/file", "x")
        .file_bytes(b"large", &vec![b'L'; 2_500_000])
        .file_bytes("na\u{ef}ve \u{1f40b}".as_bytes(), b"")
        .file_bytes(b"latin-\xe9", b"")
        .end();
    agrees("ordinary", &made);
}

#[test]
fn devices_and_pipes_are_as_others_make_them() {
    let made = archive()
        .dir("dev")
        .put(Header::new(b'3', b"dev/null").device(1, 3).mode(0o666), b"")
        .put(Header::new(b'4', b"dev/sda").device(8, 0).mode(0o660).gid(6), b"")
        .put(Header::new(b'3', b"dev/wide").device(259, 70_000), b"")
        .put(Header::new(b'6', b"dev/pipe").mode(0o600), b"")
        .end();
    agrees("devices", &made);
}

#[test]
fn parents_that_are_links_lead_where_others_go() {
    let made = archive()
        .dir("usr")
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .file("lib/one", "1")
        .dir("run")
        .dir("var")
        .symlink("var/run", "/run")
        .file("var/run/two", "2")
        .file("/absolute", "3")
        .file("../../climbs", "4")
        .file("./dots/./five", "5")
        .link("lib/six", "/usr/lib/one")
        .end();
    agrees("parents", &made);
}

#[test]
fn of_entries_that_come_twice_the_last_wins_elsewhere_too() {
    let made = archive()
        .file("a", "first")
        .file("a", "last")
        .dir("d")
        .file("d/child", "stays")
        .put(Header::new(b'5', b"d").mode(0o700).uid(3), b"")
        .dir("e")
        .file("e/child", "goes")
        .file("e", "a file now")
        .symlink("l", "t")
        .file("l", "a file now")
        .file("f", "a file")
        .put(Header::new(b'5', b"f").mode(0o711), b"")
        .end();
    agrees("twice", &made);
}

#[test]
fn pax_and_gnu_headers_mean_the_same_elsewhere() {
    let long = ["directory".repeat(12), "name".repeat(50)].join("/");
    let target = "target/".repeat(40);
    let made = archive()
        .pax(&[("path", b"renamed"), ("uid", b"70000"), ("mtime", b"1700000000.123456789")])
        .file("x", "content")
        .pax(&[("mtime", b"1600000000.5")])
        .dir("dir")
        .long_name(long.as_bytes())
        .file("cut", "long")
        .long_link(target.as_bytes())
        .symlink("link", "cut")
        .pax(&[("SCHILY.xattr.user.comment", b"a\0b")])
        .file("commented", "")
        .pax(&[("size", b"600")])
        .put(Header::new(b'0', b"sized").size(600), &[b's'; 600])
        .put(Header::new(b'0', b"f").prefix(b"pre/fix").size(1), b"p")
        .end();
    agrees("extended headers", &made);
}

#[test]
fn sparse_files_have_the_content_others_read() {
    let made = archive()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"new"),
            ("GNU.sparse.realsize", b"10000"),
        ])
        .file("GNUSparseFile.0/new", &format!("{:\0<512}abcz", "2\n4096\n3\n9999\n1\n"))
        .file("after", "x")
        .end();
    agrees("sparse", &made);
}

#[test]
fn what_differs_on_purpose() {
    // The others know only what came before: they refuse these, or lose something. Each is said in the text.
    if !rustix::process::geteuid().is_root() || !others::are_here() {
        println!("skipped: root, umoci and containerd are needed");
        return;
    }
    let later = archive().link("b", "a").file("a", "x").end();
    assert_eq!(ours(&later).len(), 2, "a hard link may come before its target");
    assert!(others::umoci(&later).is_err());
    assert!(others::containerd(&later).is_err());
    let in_the_way = archive().file("a", "x").file("a/b", "y").end();
    assert_eq!(ours(&in_the_way).len(), 2, "a file in the way of a parent becomes a directory");
    assert!(others::containerd(&in_the_way).is_err());
    let old =
        Header::new(b'S', b"s").magic(b"ustar  \0").size(1).octal(483, 12, 5_000).octal(386, 12, 9).octal(398, 12, 1);
    let sparse = archive().put(old, b"x").end();
    assert_eq!(ours(&sparse).len(), 1, "the old sparse files of GNU tar are read");
    assert!(others::umoci(&sparse).is_err());
    assert!(others::containerd(&sparse).is_err());
}
