//! One 512-byte header: checked, and its fields read. Layout by the crate `tar`.

use crate::{
    error::{ErrorKind, Result},
    layer::{
        limits::entry_text,
        tar::field::{number, text},
    },
};

/// Bytes of a record: headers are one, contents are padded to whole ones.
pub(super) const RECORD: usize = 512;

/// What a header says before any override.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) type_flag: u8,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) mtime: i64,
    pub(super) device: (u32, u32),
}

/// The checks and the reading of one header. `fields` is reused from entry to entry, so that nothing is allocated.
pub(super) fn read(record: &[u8; RECORD], fields: &mut Fields) -> Result<()> {
    let header = tar::Header::from_byte_slice(record);
    check_sum(record)?;
    let old = header.as_old();
    fields.type_flag = old.linkflag[0];
    fields.path.clear();
    let prefix = match (header.as_ustar(), header.as_gnu()) {
        // Star keeps times at the end of the prefix and says so with "tar" in the last four bytes.
        (Some(ustar), _) if &record[508..512] == b"tar\0" => text(&ustar.prefix[..131]),
        (Some(ustar), _) => text(&ustar.prefix),
        _ => &[],
    };
    if !prefix.is_empty() {
        fields.path.extend_from_slice(prefix);
        fields.path.push(b'/');
    }
    fields.path.extend_from_slice(text(&old.name));
    fields.link.clear();
    fields.link.extend_from_slice(text(&old.linkname));

    let path = &fields.path;
    let field = |name: &str, bytes: &[u8]| {
        number(bytes).ok_or_else(|| damaged(path, format!("the header's {name} is no number")))
    };
    fields.size = u64::try_from(field("size", &old.size)?).map_err(|_| damaged(path, "the size is negative".into()))?;
    fields.mode = (field("mode", &old.mode)? & 0o7777) as u32;
    fields.uid = field("uid", &old.uid)?;
    fields.gid = field("gid", &old.gid)?;
    fields.mtime = field("mtime", &old.mtime)?;
    fields.device = (0, 0);
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Ok(()),
    };
    if matches!(fields.type_flag, b'3' | b'4') {
        let part = |name, bytes: &[u8]| {
            u32::try_from(field(name, bytes)?).map_err(|_| damaged(path, format!("the {name} is out of range")))
        };
        fields.device = (part("device's major number", major)?, part("device's minor number", minor)?);
    }
    Ok(())
}

/// The sum of all bytes, the sum's own field counted as blanks. Some old programs summed signed bytes.
fn check_sum(record: &[u8; RECORD]) -> Result<()> {
    const FIELD: std::ops::Range<usize> = 148..156;
    let blank = i64::from(b' ') * FIELD.len() as i64;
    let outside = || record[..FIELD.start].iter().chain(&record[FIELD.end..]);
    let unsigned: i64 = outside().map(|&byte| i64::from(byte)).sum::<i64>() + blank;
    let stated = number(&record[FIELD]);
    if stated == Some(unsigned) {
        return Ok(());
    }
    let signed: i64 = outside().map(|&byte| i64::from(byte as i8)).sum::<i64>() + blank;
    if stated == Some(signed) {
        return Ok(());
    }
    Err(ErrorKind::Extraction {
        entry: None,
        reason: "the archive is damaged: a header's checksum is wrong".to_owned(),
    }
    .into())
}

pub(super) fn damaged(path: &[u8], reason: String) -> crate::error::ImageError {
    ErrorKind::Extraction { entry: Some(entry_text(path)), reason }.into()
}
