//! What was built is read; what was not is refused.

use proptest::{collection::vec, prelude::*};

use super::{OwnedRow, RowKind, StreamSegment, Table, Verified, build_table};
use crate::{
    layer::{
        BlobFacts, Source, Unpack,
        stat::OverrideStat,
        table::wire::{CHECKSUM, HEADER, checksum},
        tar::Timestamp,
        unpack,
    },
    model::{Algorithm, Digest},
};

fn verified() -> Verified {
    Verified {
        digest: Digest::of(Algorithm::Sha256, b"blob"),
        size: 12,
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        diff_id: Digest::of(Algorithm::Sha512, b"layer"),
        uncompressed_size: 1 << 40,
    }
}

fn directory(path: &[u8]) -> OwnedRow {
    OwnedRow::new(path, RowKind::Directory)
}

/// A row below `parent`, of any kind and with all that its kind can have.
fn any_row(parent: Vec<u8>, n: usize) -> impl Strategy<Value = OwnedRow> {
    let kinds = [RowKind::File, RowKind::Symlink, RowKind::Character, RowKind::Block, RowKind::Fifo, RowKind::Whiteout];
    let facts = (any::<(u32, u32, u16)>(), any::<i64>(), 0..1_000_000_000u32, vec((0..9u64, 1..9u64), 0..4));
    let text = (vec(1..=255u8, 1..9), vec((vec(1..=255u8, 1..4), vec(any::<u8>(), 0..9)), 0..3), any::<bool>());
    (0..kinds.len(), facts, text).prop_map(move |(kind, (ids, seconds, nanoseconds, pieces), (text, xattrs, cross))| {
        let kind = kinds[kind];
        let hides = if kind == RowKind::Whiteout { ".wh." } else { "" };
        let name = format!("{hides}{}-{n}", text.len());
        let mut row = OwnedRow::new(&[parent.clone(), name.into_bytes()].join(&b'/'), kind);
        row.stat.uid = ids.0;
        row.stat.gid = ids.1;
        row.stat.mode |= u32::from(ids.2) & 0o7777;
        row.mtime = Timestamp { seconds, nanoseconds };
        row.xattrs = xattrs.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect();
        match kind {
            RowKind::Character | RowKind::Block => row.stat.rdev = ids.0,
            RowKind::Symlink => (row.size, row.target) = (text.len() as u64, text),
            RowKind::File if cross => (row.cross_layer, row.target) = (true, b"lower/file".to_vec()),
            RowKind::File if !pieces.is_empty() => {
                let (mut offset, mut position) = (0, 512);
                for (hole, length) in pieces {
                    row.segments.push(StreamSegment { offset: offset + hole, length, position });
                    (offset, position) = (offset + hole + length, position + length);
                }
                (row.size, row.position) = (offset + 5, Some(512));
            }
            RowKind::File | RowKind::Whiteout => (row.size, row.position) = (ids.0.into(), Some(ids.1.into())),
            _ => {}
        }
        row
    })
}

/// Rows of some directories, some names of one inode among them.
fn any_rows() -> impl Strategy<Value = Vec<OwnedRow>> {
    let parents = [&b"a"[..], b"a-b", b"a/x", b"a/x/y", b"a!", b"b"];
    vec((0..parents.len()).prop_flat_map(move |at| any_row(parents[at].to_vec(), at)), 0..20).prop_map(move |rows| {
        let mut all: Vec<OwnedRow> = parents.iter().map(|path| directory(path)).collect();
        all.insert(0, OwnedRow { implied: true, ..directory(b"") });
        all[2].implied = true;
        all[3].opaque = true;
        for (n, mut row) in rows.into_iter().enumerate() {
            row.path.extend_from_slice(n.to_string().as_bytes());
            if row.kind == RowKind::File && n % 2 == 0 {
                let other = [b"b/link".as_slice(), n.to_string().as_bytes()].concat();
                row.group = Some(n as u64);
                all.push(OwnedRow { path: other, ..row.clone() });
            }
            all.push(row);
        }
        all
    })
}

proptest! {
    #[test]
    fn what_is_built_is_read(rows in any_rows()) {
        let mut rows = rows;
        let table = Table::from_bytes(build_table(&verified(), rows.clone())).unwrap();
        prop_assert_eq!(table.verified(), &verified());
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        prop_assert_eq!(table.len(), rows.len());
        prop_assert!(table.has_implied_directories());
        prop_assert_eq!(table.has_cross_layer_links(), rows.iter().any(|row| row.cross_layer));
        for (at, mut row) in rows.iter().cloned().enumerate() {
            prop_assert_eq!(table.find(&row.path), Some(at));
            row.group = row.group.map(|group| rows.iter().position(|other| other.group == Some(group)).unwrap() as u64);
            prop_assert_eq!(table.row(at).to_owned(), row);
        }
        prop_assert_eq!(table.find(b"nothing"), None);
        prop_assert_eq!(table.find(b"zzz"), None);
    }

    /// The checksum is made right again: what is refused is refused for what it says.
    #[test]
    fn bytes_changed_anywhere_give_a_table_or_a_typed_error(
        rows in any_rows(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = build_table(&verified(), rows);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if bytes.len() >= HEADER {
            let sum = checksum(&bytes);
            bytes[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        }
        match Table::from_bytes(bytes) {
            Ok(table) => for row in table.rows() {
                let at = table.find(row.path).unwrap();
                prop_assert_eq!(table.row(at).to_owned(), row.to_owned());
            },
            Err(error) => prop_assert_eq!(error.code(), "ERR_CACHE"),
        }
    }

    #[test]
    fn any_bytes_are_a_typed_error(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(Table::from_bytes(bytes).unwrap_err().code(), "ERR_CACHE");
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    let bytes = build_table(&verified(), [directory(b"a"), OwnedRow::new(b"a/b", RowKind::File)]);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(Table::from_bytes(damaged).unwrap_err().code(), "ERR_CACHE", "byte {at}");
    }
}

#[test]
fn rows_that_say_what_can_not_be_are_refused() {
    let file = |path: &[u8]| OwnedRow::new(path, RowKind::File);
    let link = |target: &[u8]| OwnedRow { cross_layer: true, target: target.to_vec(), ..file(b"l") };
    let hidden = |name: &[u8]| OwnedRow::new(name, RowKind::Whiteout);
    let segment = |offset, length| StreamSegment { offset, length, position: 0 };
    let sparse = |segments| OwnedRow { size: 9, position: Some(0), segments, ..file(b"s") };
    for (rows, reason) in [
        (vec![file(b"")], "it has no root"),
        (vec![file(b"a"), file(b"a")], "its rows are not sorted"),
        (vec![file(b"a/b")], "a row lies in no directory"),
        (vec![file(b"a"), file(b"a/b")], "a row lies in no directory"),
        (vec![directory(b"a-"), file(b"a-b/c")], "a row lies in no directory"),
        (vec![file(b"..")], "a path leads elsewhere"),
        (vec![file(b"/a")], "a path leads elsewhere"),
        (vec![directory(b"a"), file(b"a//b")], "a row lies in no directory"),
        (vec![directory(b"a"), file(b"a/")], "a path leads elsewhere"),
        (vec![file(b"a\0")], "a path leads elsewhere"),
        (vec![file(b".wh.a")], "a name and its kind disagree about a whiteout"),
        (vec![hidden(b"a")], "a name and its kind disagree about a whiteout"),
        (vec![hidden(b".wh..wh..opq")], "a name and its kind disagree about a whiteout"),
        (vec![OwnedRow { opaque: true, ..file(b"a") }], "a row has a flag that its kind can't have"),
        (vec![OwnedRow { stat: directory(b"").stat, ..file(b"a") }], "a row's attributes are not those of its kind"),
        (
            vec![OwnedRow { mtime: Timestamp { seconds: 0, nanoseconds: 1_000_000_000 }, ..file(b"a") }],
            "a row's attributes are not those of its kind",
        ),
        (vec![OwnedRow::new(b"a", RowKind::Symlink)], "a row is no proper link"),
        (vec![OwnedRow { target: b"t".to_vec(), ..file(b"a") }], "a row is no proper link"),
        (vec![link(b"")], "a row is no proper link"),
        (vec![link(b"/etc/shadow")], "a row is no proper link"),
        (vec![link(b"../etc/shadow")], "a row is no proper link"),
        (vec![OwnedRow { position: Some(1 << 40), size: 1, ..file(b"a") }], "a row's content lies outside the stream"),
        (vec![OwnedRow { position: Some(2), size: u64::MAX, ..file(b"a") }], "a row's content lies outside the stream"),
        (vec![OwnedRow { size: 1, ..directory(b"a") }], "a row's content lies outside the stream"),
        (vec![sparse(vec![segment(4, 4), segment(3, 1)])], "the segments of a row are out of order"),
        (vec![sparse(vec![segment(8, 2)])], "the segments of a row are out of order"),
        (vec![sparse(vec![segment(2, 0)])], "a row's content lies outside the stream"),
        (
            vec![OwnedRow { xattrs: vec![(b"a".to_vec(), vec![]), (b"a".to_vec(), vec![])], ..file(b"a") }],
            "the attributes of a row are not sorted",
        ),
        (
            vec![OwnedRow { group: Some(1), ..file(b"a") }, OwnedRow { group: Some(1), size: 1, ..file(b"b") }],
            "a group of hard links is none",
        ),
        (
            vec![OwnedRow { group: Some(1), ..directory(b"a") }, OwnedRow { group: Some(1), ..directory(b"b") }],
            "a group of hard links is none",
        ),
    ] {
        let error = Table::from_bytes(build_table(&verified(), rows)).unwrap_err();
        assert!(error.to_string().ends_with(&format!("damaged: {reason}")), "{reason}: {error}");
    }
}

#[test]
fn a_table_that_is_not_there_is_told_from_one_that_is_damaged() {
    use std::error::Error;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table");
    let error = Table::open(&path).unwrap_err();
    let cause = error.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!((error.code(), cause.kind()), ("ERR_IO", std::io::ErrorKind::NotFound));
    std::fs::write(&path, b"").unwrap();
    assert_eq!(Table::open(&path).unwrap_err().code(), "ERR_CACHE");
    std::fs::write(&path, build_table(&verified(), [])).unwrap();
    let table = Table::open(&path).unwrap();
    assert_eq!((table.len(), table.row(0).implied, table.has_implied_directories()), (1, true, false));
}

#[test]
fn rows_below_a_directory_lie_together() {
    let rows = [directory(b"a"), directory(b"a/b"), directory(b"a-b"), directory(b"a0")];
    let table = Table::from_bytes(build_table(&verified(), rows)).unwrap();
    let paths: Vec<&[u8]> = table.rows().map(|row| row.path).collect();
    assert_eq!(paths, [&b""[..], b"a", b"a-b", b"a/b", b"a0"]);
    assert_eq!((table.first_from(b"a/"), table.first_from(b"a0")), (3, 4));
}

#[test]
fn a_table_takes_a_few_megabytes_for_sixty_thousand_entries() {
    let path = |n: u32| format!("usr/lib/node_modules/package-{}/lib/file-{n}.js", n % 50).into_bytes();
    let parents = ["usr", "usr/lib", "usr/lib/node_modules"].map(|path| directory(path.as_bytes()));
    let packages = (0..50).flat_map(|n| {
        let package = format!("usr/lib/node_modules/package-{n}");
        [directory(package.as_bytes()), directory(format!("{package}/lib").as_bytes())]
    });
    let files = (0..60_000).map(|n| OwnedRow::new(&path(n), RowKind::File));
    let bytes = build_table(&verified(), parents.into_iter().chain(packages).chain(files));
    assert!(bytes.len() < 7 << 20, "{}", bytes.len());
    Table::from_bytes(bytes).unwrap();
}

fn pax(records: &[&str]) -> Vec<u8> {
    // All are shorter than 98 bytes.
    records.iter().flat_map(|record| format!("{} {record}\n", record.len() + 4).into_bytes()).collect()
}

/// One archive of all that a row can say.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        header.set_size(content.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        if kind == tar::EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        tar.append_data(&mut header, path, content).unwrap();
    };
    use tar::EntryType;
    add(EntryType::Regular, "usr/lib/file", "", b"content");
    add(EntryType::XHeader, "pax", "", &pax(&["SCHILY.xattr.b.c=one", "SCHILY.xattr.a.b=another"]));
    add(EntryType::Regular, "usr-merge", "", b"x");
    add(EntryType::Link, "a-link", "usr/lib/file", b"");
    add(EntryType::Link, "lower", "lib/below", b"");
    add(EntryType::Link, "lower-too", "lower", b"");
    add(EntryType::Symlink, "symlink", "../target", b"");
    add(EntryType::Char, "null", "", b"");
    add(EntryType::Fifo, "pipe", "", b"");
    add(EntryType::Directory, "opaque", "", b"");
    add(EntryType::Regular, "opaque/.wh..wh..opq", "", b"");
    add(EntryType::Regular, "opaque/.wh.gone", "", b"");
    add(
        EntryType::XHeader,
        "pax",
        "",
        &pax(&[
            "GNU.sparse.major=0",
            "GNU.sparse.minor=1",
            "GNU.sparse.name=sparse",
            "GNU.sparse.size=1000",
            "GNU.sparse.map=100,5,300,2",
        ]),
    );
    add(EntryType::Regular, "s", "", b"1234567");
    tar.into_inner().unwrap()
}

struct Whole(Option<Vec<u8>>);

impl Source for Whole {
    fn next_piece(&mut self) -> crate::error::Result<Option<bytes::Bytes>> {
        Ok(self.0.take().map(Into::into))
    }
}

fn unpack_with_table(archive: &[u8]) -> Table {
    let folder = tempfile::tempdir().unwrap();
    let verified = verified();
    let blob = BlobFacts { digest: verified.digest, size: verified.size, media_type: verified.media_type };
    let how = Unpack { blob: Some(blob), ..Unpack::default() };
    let unpacked = unpack(Whole(Some(archive.to_vec())), folder.path(), how).unwrap();
    let table = Table::from_bytes(unpacked.table.unwrap().to_vec().unwrap()).unwrap();
    let listed = table.rows().filter(|row| row.implied && !row.path.is_empty()).map(|row| row.path.to_vec());
    assert_eq!(listed.collect::<Vec<_>>(), unpacked.implicit_directories);
    assert_eq!(table.verified().diff_id, unpacked.diff_id);
    table
}

#[test]
fn the_table_of_a_layer_says_all_that_its_archive_says() {
    let archive = archive();
    let table = unpack_with_table(&archive);
    assert_eq!(table.verified().uncompressed_size, archive.len() as u64);
    assert!(table.has_implied_directories() && table.has_cross_layer_links());
    let row = |path: &str| table.row(table.find(path.as_bytes()).unwrap_or_else(|| panic!("{path} has no row")));
    let bytes_at = |position: u64, length: u64| &archive[position as usize..][..length as usize];

    assert!(row("").implied && row("usr").implied && row("usr/lib").implied);
    let file = row("usr/lib/file");
    assert_eq!(file.stat, OverrideStat { uid: 7, gid: 8, mode: 0o100_644, rdev: 0 });
    assert_eq!((file.size, file.mtime), (7, Timestamp { seconds: 9, nanoseconds: 0 }));
    assert_eq!(bytes_at(file.position.unwrap(), 7), b"content");
    let first = table.find(b"a-link").unwrap();
    assert_eq!((file.group, row("a-link").group), (Some(first as u32), Some(first as u32)));
    assert_eq!(row("a-link").position, file.position);

    let xattrs: Vec<_> = row("usr-merge").xattrs().collect();
    assert_eq!(xattrs, [(&b"a.b"[..], &b"another"[..]), (b"b.c", b"one")]);
    for name in ["lower", "lower-too"] {
        assert!(row(name).cross_layer && row(name).group.is_some());
        assert_eq!((row(name).target, row(name).position), (&b"lib/below"[..], None));
    }
    assert_eq!(
        (row("symlink").kind, row("symlink").target, row("symlink").size),
        (RowKind::Symlink, &b"../target"[..], 9)
    );
    assert_eq!((row("null").kind, row("null").stat.rdev), (RowKind::Character, 0x103));
    assert_eq!((row("pipe").kind, row("opaque/.wh.gone").kind), (RowKind::Fifo, RowKind::Whiteout));
    assert!(row("opaque").opaque && !row("opaque").implied && !row("usr").opaque);
    assert_eq!(table.find(b"opaque/.wh..wh..opq"), None);

    let sparse = row("sparse");
    assert_eq!((sparse.size, sparse.segments().len()), (1000, 2));
    let pieces: Vec<_> = sparse.segments().map(|s| (s.offset, bytes_at(s.position, s.length))).collect();
    assert_eq!(pieces, [(100, &b"12345"[..]), (300, b"67")]);
}

#[test]
fn the_table_depends_on_the_archive_alone() {
    let bytes = || {
        let table = unpack_with_table(&archive());
        table.rows().map(|row| row.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(), bytes());
}
