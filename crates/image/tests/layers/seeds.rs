//! What the fuzz targets (`fuzz/`) begin with: small inputs of every kind, made here. With `UPDATE_SEEDS` set they are
//! written anew; else the committed ones must be these.

use std::{fs, path::Path};

use crate::{
    archive::{Archive, Header, archive},
    harness::run,
};

type Seeds = Vec<(&'static str, &'static str, Vec<u8>)>;

#[test]
fn the_seeds_of_the_fuzz_targets_are_those_made_here() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let update = std::env::var_os("UPDATE_SEEDS").is_some();
    for (target, name, bytes) in [decode(), walk(), plan(), index(), references(), manifests()].concat() {
        let file = corpus.join(target).join(name);
        if update {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        let committed = fs::read(&file).unwrap_or_default();
        assert!(committed == bytes, "{} is another: run the test with UPDATE_SEEDS=1", file.display());
    }
}

/// The first byte is the length of pieces, or a choice of the target.
fn led(first: u8, bytes: &[u8]) -> Vec<u8> {
    [&[first], bytes].concat()
}

fn decode() -> Seeds {
    // Made by hand, so that they are the same whatever the versions of the libraries: blocks that are stored.
    let gzip = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap();
        let mut sum = flate2::Crc::new();
        sum.update(bytes);
        let block = [&[1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), bytes].concat();
        [&b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..], &block, &sum.sum().to_le_bytes(), &sum.amount().to_le_bytes()].concat()
    };
    let zstd = |bytes: &[u8]| {
        let block = (u32::try_from(bytes.len()).unwrap() << 3 | 1).to_le_bytes();
        let length = u8::try_from(bytes.len()).unwrap();
        [&b"\x28\xb5\x2f\xfd\x20"[..], &[length], &block[..3], bytes].concat()
    };
    // "hello hello hello hello" and a line's end, with a name, an extra field and a comment.
    let deflated = b"\x1f\x8b\x08\x1c\0\0\0\0\0\x03\x02\0xxname\0comment\0\
        \xcb\x48\xcd\xc9\xc9\x57\xc8\x40\x27\xb9\0\0\x88\x59\x0b\x18\0\0\0";
    let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0\x09\x09\x09";
    vec![
        ("decode", "plain", led(9, b"plain bytes")),
        ("decode", "gzip-members", led(3, &[gzip(b"one "), gzip(b""), gzip(b"two")].concat())),
        ("decode", "gzip-flags", led(200, deflated)),
        ("decode", "gzip-cut", led(1, &gzip(b"one")[..12])),
        ("decode", "zstd-frames", led(7, &[&skippable[..], &zstd(b"one "), skippable, &zstd(b"two")].concat())),
        ("decode", "zstd-rle", led(0, b"\x28\xb5\x2f\xfd\x60\0\x10\x03\x88\0z")),
        ("decode", "bzip2", led(0, b"BZh91AY&SY")),
    ]
}

fn walk() -> Seeds {
    let sparse: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"1000"),
    ];
    let old_sparse =
        Header::new(b'S', b"s").magic(b"ustar  \0").size(1).octal(483, 12, 999).octal(386, 12, 9).octal(398, 12, 1);
    let kinds = archive()
        .dir("d")
        .file("d/f", "content")
        .symlink("l", "d")
        .link("l/h", "d/f")
        .put(Header::new(b'3', b"null").device(1, 3), b"")
        .put(Header::new(b'6', b"pipe"), b"");
    let all: [(&str, u8, Archive); 9] = [
        ("kinds", 0, kinds),
        ("old", 1, archive().put(Header::new(0, b"d/").magic(&[0; 8]), b"")),
        ("prefix", 1, archive().put(Header::new(b'0', b"f").prefix(b"a/b"), b"")),
        ("gnu-long", 2, archive().long_name(b"d/long").long_link(b"t").symlink("x", "y")),
        ("pax", 3, archive().pax(&[("path", b"p"), ("size", b"3"), ("mtime", b"1.5"), ("uid", b"7")]).file("f", "abc")),
        ("pax-xattrs", 4, archive().pax(&[("SCHILY.xattr.user.x", b"v")]).pax_global(&[("gid", b"3")]).file("f", "")),
        ("pax-sparse", 5, archive().pax(&sparse).file("f", &format!("{:\0<512}x", "1\n9\n1\n"))),
        ("gnu-sparse", 6, archive().put(old_sparse, b"x")),
        ("whiteouts", 7, archive().file("d/.wh.x", "").file("d/.wh..wh..opq", "").file("d/x", "").file(".wh.d", "")),
    ];
    all.into_iter().map(|(name, pieces, made)| ("walk", name, led(pieces, &made.end().0))).collect()
}

/// See `fuzz_targets/plan.rs` for the form of these.
fn plan() -> Seeds {
    vec![
        ("plan", "file-below-link", vec![0x02, 0, 0x10, 1, 2, 0x10, 0, 3, 5]),
        ("plan", "link-to-later", vec![0x03, 0, 0x00, 1, 0x00, 1, 9]),
        ("plan", "out-of-the-root", vec![0x02, 0, 0x10, 4, 7, 0x10, 0, 8, 1]),
        ("plan", "whiteouts", vec![0x00, 9, 0, 0x01, 0, 0x10, 0, 11, 0, 0x00, 9, 0]),
        ("plan", "in-the-way", vec![0x00, 0, 1, 0x10, 0, 1, 2, 0x02, 0, 0x00, 1, 0x11, 0, 2]),
    ]
}

/// The index of a small tree, its inode numbers replaced, since each host gives others.
fn index() -> Seeds {
    let made = archive().dir("d").file("d/f", "x").link("h", "d/f").file(".wh.x", "").file("d/.wh..wh..opq", "");
    let mut bytes = run(&made.end().0, Default::default()).unpacked.unwrap().index.unwrap().to_vec().unwrap();
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (directories, entries, links) = (number(&bytes, 12), number(&bytes, 16), number(&bytes, 20));
    let first = 32 + directories * 24;
    let records = (0..entries).map(|at| first + at * 40).chain((0..links).map(|at| first + entries * 40 + at * 16));
    for at in records {
        bytes[at..at + 8].copy_from_slice(&7u64.to_le_bytes());
    }
    bytes[28..32].fill(0);
    vec![("index", "small", led(0, &bytes)), ("index", "cut", led(0, &bytes[..100])), ("index", "empty", led(0, b""))]
}

fn references() -> Seeds {
    let digest = format!("host.example:5000/a/b:tag@sha256:{}", "0123456789abcdef".repeat(4));
    [
        ("short", "alpine"),
        ("tag", "library/alpine:3.20"),
        ("digest", &digest),
        ("address", "[::1]:5000/a"),
        ("platform", "linux/arm64/v8"),
    ]
    .map(|(name, text)| ("reference", name, text.as_bytes().to_vec()))
    .to_vec()
}

fn manifests() -> Seeds {
    let digest = format!("sha256:{}", "a".repeat(64));
    let descriptor =
        |kind: &str| format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":3"#);
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{}}},"layers":[{}}},{},"data":"YWJj"}}]}}"#,
        descriptor("config.v1+json"),
        descriptor("layer.v1.tar+gzip"),
        descriptor("layer.v1.tar+zstd"),
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},"platform":{{"os":"linux",
        "architecture":"arm","variant":"v7"}},"annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}}]}}"#,
        descriptor("manifest.v1+json"),
    );
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{"Env":["A=b"],"Cmd":["sh"],"User":"0","ExposedPorts":{{"80/tcp":{{}}}},
        "Labels":{{"a":"b"}},"Volumes":{{"/v":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
    );
    vec![
        ("manifest", "manifest", led(1, manifest.as_bytes())),
        ("manifest", "index", led(2, index.as_bytes())),
        ("manifest", "config", led(0, config.as_bytes())),
        ("manifest", "schema-1", led(3, br#"{"schemaVersion":1,"fsLayers":[]}"#)),
    ]
}
