//! PAX and GNU extended headers (TRAPS 23, 25).

use std::fs;

use crate::{
    archive::{Header, archive, pax},
    harness::{noted, refuses, run, unpacks},
};

#[test]
fn pax_overrides_hold_for_one_entry() {
    unpacks(
        &archive()
            .pax(&[("path", b"renamed"), ("uid", b"70000"), ("gid", b"3"), ("mtime", b"12.5")])
            .file("a", "x")
            .file("b", "")
            .end(),
        "f b\nf renamed 70000:3 @12.500000000 x",
    );
}

#[test]
fn pax_times_keep_nanoseconds_on_files_directories_and_links() {
    let time: &[(&str, &[u8])] = &[("mtime", b"1700000000.123456789")];
    unpacks(
        &archive().pax(time).dir("d").pax(time).file("d/f", "").pax(time).symlink("l", "t").end(),
        "d d @1700000000.123456789\nf d/f @1700000000.123456789\nl l @1700000000.123456789 -> t",
    );
    unpacks(&archive().pax(&[("mtime", b"-1.25")]).file("f", "").end(), "f f @-2.750000000");
}

#[test]
fn a_pax_size_says_where_the_next_header_is() {
    let header = Header::new(b'0', b"f").size(0);
    unpacks(&archive().pax(&[("size", b"600")]).put(header, &[b'x'; 600]).file("g", "").end(), "f f 600 bytes\nf g");
    let header = Header::new(b'0', b"f").size(5000);
    unpacks(&archive().pax(&[("size", b"1")]).put(header, b"x").file("g", "").end(), "f f x\nf g");
}

#[test]
fn a_pax_path_is_resolved_like_any_other() {
    unpacks(&archive().pax(&[("path", b"/../../victim/file")]).file("a", "x").end(), "i victim\nf victim/file x");
    unpacks(&archive().pax(&[("linkpath", b"b\xff")]).symlink("l", "a").end(), "l l -> b\u{fffd}");
    unpacks(
        &archive().pax(&[("linkpath", b"a")]).file("a", "x").pax(&[("linkpath", b"a")]).link("h", "zzz").end(),
        "f a x\nh h = a",
    );
}

#[test]
fn an_empty_pax_value_takes_an_override_back() {
    unpacks(&archive().pax(&[("path", b"x"), ("path", b""), ("uid", b"")]).file("a", "").end(), "f a");
}

#[test]
fn of_two_extended_headers_before_one_entry_the_last_holds() {
    unpacks(&archive().pax(&[("path", b"x"), ("uid", b"5")]).pax(&[("path", b"y")]).file("a", "").end(), "f y");
}

#[test]
fn global_headers_give_owner_and_time_until_the_end() {
    unpacks(
        &archive()
            .pax_global(&[("uid", b"7"), ("comment", b"a commit")])
            .file("a", "")
            .pax(&[("uid", b"8")])
            .file("b", "")
            .file("c", "")
            .end(),
        "f a 7:0\nf b 8:0\nf c 7:0",
    );
    refuses(&archive().pax_global(&[("path", b"x")]).file("a", "").end(), "ERR_EXTRACTION", "global");
    refuses(&archive().pax_global(&[("size", b"512")]).file("a", "").end(), "ERR_EXTRACTION", "global");
}

#[test]
fn gnu_long_names_and_links_are_read() {
    let name = ["d".repeat(120), "f".repeat(150)].join("/");
    let wanted = format!("i {}\nf {name} x", "d".repeat(120));
    unpacks(&archive().long_name(name.as_bytes()).file("cut", "x").end(), &wanted);
    let target = "t".repeat(300);
    unpacks(&archive().long_link(target.as_bytes()).symlink("l", "cut").end(), &format!("l l -> {target}"));
    unpacks(
        &archive().long_link(target.as_bytes()).long_name(b"n").symlink("l", "c").end(),
        &format!("l n -> {target}"),
    );
    unpacks(&archive().long_name(b"long").file("a", "").file("b", "").end(), "f b\nf long");
}

#[test]
fn gnus_long_name_wins_over_paxs_as_elsewhere() {
    unpacks(&archive().pax(&[("path", b"pax")]).long_name(b"gnu").file("a", "").end(), "f gnu");
}

#[test]
fn damaged_extended_headers_are_refused() {
    for bytes in [&b"x"[..], b"5 a=b\n", b"99 a=b\n", b"6 a=bc", b"0 a=b\n", b"-6 a=b\n", b"7  a=b\n\n", b"5 ab\n"] {
        refuses(&archive().extension(b'x', bytes).file("f", "").end(), "ERR_EXTRACTION", "PAX");
    }
    for (key, value) in [
        ("uid", &b"4294967296"[..]),
        ("uid", b"-1"),
        ("size", b"-5"),
        ("size", b"0x10"),
        ("size", b"18446744073709551616"),
        ("path", b"a\0b"),
        ("mtime", b"now"),
        ("SCHILY.xattr.", b"x"),
    ] {
        refuses(&archive().pax(&[(key, value)]).file("f", "").end(), "ERR_EXTRACTION", "PAX");
    }
}

#[test]
fn an_extended_header_without_an_entry_is_refused() {
    refuses(&archive().pax(&[("uid", b"1")]).end(), "ERR_EXTRACTION", "");
    refuses(&archive().long_name(b"x").end(), "ERR_EXTRACTION", "");
    refuses(&archive().long_link(b"x"), "ERR_EXTRACTION", "");
}

#[test]
fn an_extended_header_longer_than_a_mebibyte_is_refused_before_it_is_read() {
    for kind in [b'x', b'g', b'L', b'K'] {
        for size in [(1 << 20) + 1, 1 << 30] {
            refuses(&archive().put(Header::new(kind, b"x").size(size), b""), "ERR_LIMIT", "extended header");
        }
    }
}

#[test]
fn a_thousand_extended_attributes_are_the_end() {
    let records: Vec<(String, Vec<u8>)> = (0..1025).map(|n| (format!("SCHILY.xattr.user.{n}"), vec![b'x'])).collect();
    let bytes = pax(&records.iter().map(|(key, value)| (key.as_str(), &value[..])).collect::<Vec<_>>());
    refuses(&archive().extension(b'x', &bytes).file("f", "").end(), "ERR_EXTRACTION", "1024");
}

#[test]
fn extended_attributes_are_kept_on_files_and_directories() {
    let comment: &[(&str, &[u8])] = &[("SCHILY.xattr.user.comment", b"a\0b\nc")];
    let made =
        archive().pax(comment).file("d/f", "x").pax(comment).dir("d").pax(comment).dir("e").pax(comment).dir("./");
    let outcome = run(&made.end().0, Default::default());
    assert!(outcome.unpacked.as_ref().unwrap().report.is_empty());
    for path in ["d/f", "d", "e", "."] {
        let mut value = [0; 16];
        let length = rustix::fs::lgetxattr(outcome.root.join(path), "user.comment", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"a\0b\nc", "{path}");
    }
}

#[test]
fn attributes_as_libarchive_writes_them_are_kept() {
    // Names with escapes, values in base64 without padding.
    let made = archive()
        .pax(&[("LIBARCHIVE.xattr.user.a%3Db", b"AGI"), ("LIBARCHIVE.xattr.user.padded", b"eA==")])
        .file("f", "")
        .pax(&[("SCHILY.xattr.user.both", b"star's"), ("LIBARCHIVE.xattr.user.both", b"bGli")])
        .file("g", "")
        .pax(&[("LIBARCHIVE.xattr.user.both", b"bGli"), ("SCHILY.xattr.user.both", b"star's")])
        .file("h", "")
        .file("next", "");
    let outcome = run(&made.end().0, Default::default());
    outcome.unpacked.unwrap();
    let attribute = |path: &str, name: &str| {
        let mut value = [0; 16];
        let length = rustix::fs::lgetxattr(outcome.root.join(path), name, &mut value[..]).ok()?;
        Some(value[..length].to_vec())
    };
    assert_eq!(attribute("f", "user.a=b").as_deref(), Some(&b"\0b"[..]));
    assert_eq!(attribute("f", "user.padded").as_deref(), Some(&b"x"[..]));
    assert_eq!(attribute("g", "user.both").as_deref(), Some(&b"star's"[..]));
    assert_eq!(attribute("h", "user.both").as_deref(), Some(&b"star's"[..]));
    assert_eq!(attribute("next", "user.both"), None);
    for (key, value) in
        [("LIBARCHIVE.xattr.user.x", &b"!"[..]), ("LIBARCHIVE.xattr.", b"eA"), ("LIBARCHIVE.xattr.%00", b"eA")]
    {
        refuses(&archive().pax(&[(key, value)]).file("f", "").end(), "ERR_EXTRACTION", "attribute");
    }
}

#[test]
fn attributes_the_host_would_interpret_are_written_down_under_another_name() {
    let made = archive().pax(&[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0")]).file("f", "").end();
    let outcome = run(&made.0, Default::default());
    outcome.unpacked.unwrap();
    let mut value = [0; 16];
    let name = "user.containers.xattr.system.posix_acl_access";
    assert_eq!(rustix::fs::lgetxattr(outcome.root.join("f"), name, &mut value[..]), Ok(4));
    assert_eq!(noted(&made)["xattr-written-down"], 1);
}

#[test]
fn file_capabilities_are_kept_in_one_form_or_the_other() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let outcome = run(
        &archive().pax(&[("SCHILY.xattr.security.capability", capability)]).file("ping", "").end().0,
        Default::default(),
    );
    outcome.unpacked.unwrap();
    let mut value = [0; 32];
    let path = outcome.root.join("ping");
    let found = ["security.capability", "user.containers.xattr.security.capability"]
        .into_iter()
        .find_map(|name| rustix::fs::lgetxattr(&path, name, &mut value[..]).ok());
    assert_eq!(found, Some(20));
    assert_eq!(&value[..20], capability);
}

#[test]
fn an_image_can_not_set_the_attributes_of_the_cache() {
    let forged = [1, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0xff, 0x89, 0, 0, 0, 0, 0, 0];
    let made = archive().pax(&[("SCHILY.xattr.user.containers.override_stat", &forged)]).file("f", "").end();
    unpacks(&made, "f f");
    assert_eq!(noted(&made)["xattr-dropped"], 1);
}

#[test]
fn an_attribute_no_host_takes_is_told_and_not_an_error() {
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(300));
    let made = archive().pax(&[(&name, b"x")]).file("f", "").end();
    unpacks(&made, "f f");
    assert_eq!(noted(&made)["xattr-dropped"], 1);
    let large = vec![b'x'; 200_000];
    let made = archive().pax(&[("SCHILY.xattr.user.large", &large)]).file("f", "x").end();
    let outcome = run(&made.0, Default::default());
    outcome.unpacked.unwrap();
    assert_eq!(fs::read(outcome.root.join("f")).unwrap(), b"x");
}
