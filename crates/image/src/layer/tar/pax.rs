//! PAX extended headers: records `length key=value\n` that override fields of the next entry (POSIX.1-2001, pax).

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::{
    error::Result,
    layer::tar::{Timestamp, header::damaged, sparse::Segment},
};

/// Extended attributes of one entry: no file system here takes as many.
const MOST_XATTRS: usize = 1024;

/// libarchive leaves the padding away; others may not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What extended headers say about one entry.
#[derive(Debug, Default, Clone)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) device_major: Option<u32>,
    pub(super) device_minor: Option<u32>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Those of libarchive, until it is known which of them star's records say too.
    libarchive_xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseKeys,
}

/// The GNU.sparse.* keys of formats 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Default, Clone)]
pub(super) struct SparseKeys {
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Vec<Segment>,
    /// Number of segments the header claims; checked against what it lists.
    pub(super) count: Option<u64>,
    offset: Option<u64>,
}

impl SparseKeys {
    pub(super) fn any(&self) -> bool {
        self.major.is_some() || self.real_size.is_some() || self.count.is_some() || !self.map.is_empty()
    }
}

impl Overrides {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads the records of a local header (type `x`).
    pub(super) fn read_local(&mut self, bytes: &[u8]) -> Result<()> {
        for_each_record(bytes, |key, value| self.take(key, value))?;
        // bsdtar writes each attribute in both forms; star's has the bytes as they are.
        for (name, value) in std::mem::take(&mut self.libarchive_xattrs) {
            if !self.xattrs.iter().any(|(known, _)| *known == name) {
                set_xattr(&mut self.xattrs, &name, value)?;
            }
        }
        match self.sparse.offset {
            Some(_) => Err(bad("a sparse segment has no length")),
            None => Ok(()),
        }
    }

    /// Reads the records of a global header (type `g`), which hold for all that follows. Only owner and time are
    /// taken; a global name, link or length would make the archive mean different things to different readers.
    pub(super) fn read_global(&mut self, bytes: &[u8]) -> Result<()> {
        for_each_record(bytes, |key, value| match key {
            b"uid" | b"gid" | b"mtime" => self.take(key, value),
            b"path" | b"linkpath" | b"size" => Err(bad("a global header sets a name or a size")),
            key if key.starts_with(b"GNU.sparse.") => Err(bad("a global header describes a sparse file")),
            _ => Ok(()),
        })
    }

    /// Fills what this entry does not say with what the global header says.
    pub(super) fn default_to(&mut self, global: &Self) {
        self.uid = self.uid.or(global.uid);
        self.gid = self.gid.or(global.gid);
        self.mtime = self.mtime.or(global.mtime);
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // An empty value takes an earlier override back.
        let filled = !value.is_empty();
        let bytes = || filled.then(|| value.to_vec());
        match key {
            b"path" => self.path = without_nul(bytes(), "path")?,
            b"linkpath" => self.link = without_nul(bytes(), "linkpath")?,
            b"size" => self.size = number(value, "size")?,
            b"uid" => self.uid = id(value, "uid")?,
            b"gid" => self.gid = id(value, "gid")?,
            b"mtime" => self.mtime = if filled { Some(timestamp(value)?) } else { None },
            b"SCHILY.devmajor" => self.device_major = id(value, "SCHILY.devmajor")?,
            b"SCHILY.devminor" => self.device_minor = id(value, "SCHILY.devminor")?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    set_xattr(&mut self.xattrs, name, value.to_vec())?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = BASE64.decode(value).map_err(|_| bad("an extended attribute is not in base64"))?;
                    set_xattr(&mut self.libarchive_xattrs, &without_escapes(name), value)?;
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value)?;
                }
            }
        }
        Ok(())
    }
}

fn set_xattr(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: Vec<u8>) -> Result<()> {
    if name.is_empty() || name.contains(&0) {
        return Err(bad("an extended attribute has no proper name"));
    }
    xattrs.retain(|(known, _)| known != name);
    if xattrs.len() == MOST_XATTRS {
        return Err(bad("an entry has more than 1024 extended attributes"));
    }
    xattrs.push((name.to_vec(), value));
    Ok(())
}

/// Takes `%41` for `A`, as libarchive writes names; what is no escape stays as it is.
fn without_escapes(name: &[u8]) -> Vec<u8> {
    let digit = |at: usize| name.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let mut plain = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(&byte) = name.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}

impl SparseKeys {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"major" => self.major = id(value, "GNU.sparse.major")?,
            b"minor" => self.minor = id(value, "GNU.sparse.minor")?,
            b"name" => self.name = without_nul(Some(value.to_vec()), "GNU.sparse.name")?,
            b"realsize" | b"size" => self.real_size = number(value, "GNU.sparse.size")?,
            b"numblocks" => self.count = number(value, "GNU.sparse.numblocks")?,
            b"offset" => {
                let offset = number(value, "GNU.sparse.offset")?;
                if self.offset.is_some() || offset.is_none() {
                    return Err(bad("the sparse segments are out of order"));
                }
                self.offset = offset;
            }
            b"numbytes" => match (self.offset.take(), number(value, "GNU.sparse.numbytes")?) {
                (Some(offset), Some(length)) => self.map.push(Segment { offset, length }),
                _ => return Err(bad("the sparse segments are out of order")),
            },
            b"map" => {
                let numbers = value.split(|&byte| byte == b',').map(|text| number(text, "GNU.sparse.map"));
                let numbers = numbers.collect::<Result<Option<Vec<u64>>>>()?.unwrap_or_default();
                if numbers.len() % 2 != 0 {
                    return Err(bad("the sparse map has half a segment"));
                }
                self.map = numbers.chunks(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect();
            }
            _ => {}
        }
        Ok(())
    }
}

fn for_each_record(mut bytes: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    while !bytes.is_empty() {
        let blank =
            bytes.iter().take(20).position(|&byte| byte == b' ').ok_or_else(|| bad("a record has no length"))?;
        let length = number(&bytes[..blank], "length")?.unwrap_or(0);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length <= blank + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(bad("a record's length is wrong"));
        }
        let record = &bytes[blank + 1..length - 1];
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(|| bad("a record has no key"))?;
        each(&record[..equals], &record[equals + 1..])?;
        bytes = &bytes[length..];
    }
    Ok(())
}

fn number(text: &[u8], key: &str) -> Result<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.iter().all(u8::is_ascii_digit);
    let value = digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten();
    value.map(Some).ok_or_else(|| bad(&format!("the value of {key} is no number that fits")))
}

fn id(text: &[u8], key: &str) -> Result<Option<u32>> {
    let too_large = || bad(&format!("the value of {key} does not fit in 32 bits"));
    number(text, key)?.map(|value| u32::try_from(value).map_err(|_| too_large())).transpose()
}

fn timestamp(text: &[u8]) -> Result<Timestamp> {
    let wrong = || bad("a time is no decimal number");
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let nanoseconds = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nanoseconds.fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    // Nanoseconds count upwards also before 1970: -1.25 is -2 s + 750,000,000 ns.
    match (negative, nanoseconds) {
        (true, 1..) => Ok(Timestamp {
            seconds: seconds.checked_sub(1).ok_or_else(wrong)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        }),
        _ => Ok(Timestamp { seconds, nanoseconds }),
    }
}

fn without_nul(value: Option<Vec<u8>>, key: &str) -> Result<Option<Vec<u8>>> {
    match &value {
        Some(bytes) if bytes.contains(&0) => Err(bad(&format!("the value of {key} contains a NUL"))),
        _ => Ok(value),
    }
}

fn bad(reason: &str) -> crate::error::ImageError {
    damaged(b"(PAX header)", reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [format!(" {key}=").as_bytes(), value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        [length.to_string().as_bytes(), &body].concat()
    }

    fn local(records: &[(&str, &[u8])]) -> Result<Overrides> {
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut overrides = Overrides::default();
        overrides.read_local(&bytes).map(|()| overrides)
    }

    #[test]
    fn values_may_hold_newlines_and_any_bytes() {
        let read = local(&[("SCHILY.xattr.security.capability", b"a\nb\0c"), ("path", b"x\ny\xff")]).unwrap();
        assert_eq!(read.xattrs, [(b"security.capability".to_vec(), b"a\nb\0c".to_vec())]);
        assert_eq!(read.path.as_deref(), Some(&b"x\ny\xff"[..]));
    }

    #[test]
    fn names_of_libarchives_attributes_have_escapes() {
        for (written, name) in
            [("user.a", "user.a"), ("user.%3D%41%7a", "user.=Az"), ("%", "%"), ("%4", "%4"), ("%zz", "%zz")]
        {
            assert_eq!(without_escapes(written.as_bytes()), name.as_bytes());
        }
    }

    #[test]
    fn times_have_nanoseconds_and_may_lie_before_1970() {
        for (text, seconds, nanoseconds) in [
            ("12", 12, 0),
            ("12.5", 12, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
        ] {
            let read = local(&[("mtime", text.as_bytes())]).unwrap().mtime.unwrap();
            assert_eq!(read, Timestamp { seconds, nanoseconds }, "{text}");
        }
    }

    #[test]
    fn bad_records_are_refused() {
        for bytes in [&b"x"[..], b"5 a=b\n", b"99 a=b\n", b"5 ab\n", b"99999999999999999999 a=b\n", b"0 a=b\n"] {
            let mut overrides = Overrides::default();
            assert_eq!(overrides.read_local(bytes).unwrap_err().code(), "ERR_EXTRACTION", "{bytes:?}");
        }
        for (key, value) in [
            ("size", &b"-1"[..]),
            ("size", b"99999999999999999999"),
            ("uid", b"4294967296"),
            ("path", b"a\0b"),
            ("mtime", b"1.x"),
            ("GNU.sparse.map", b"1,2,3"),
            ("GNU.sparse.offset", b"1"),
            ("GNU.sparse.numbytes", b"1"),
        ] {
            assert_eq!(local(&[(key, value)]).unwrap_err().code(), "ERR_EXTRACTION", "{key}");
        }
    }

    #[test]
    fn a_global_header_can_not_rename_or_resize() {
        for key in ["path", "linkpath", "size", "GNU.sparse.major"] {
            assert!(Overrides::default().read_global(&record(key, b"1")).is_err(), "{key}");
        }
        let mut global = Overrides::default();
        global.read_global(&[record("uid", b"7"), record("comment", b"x")].concat()).unwrap();
        assert_eq!(global.uid, Some(7));
    }

    #[test]
    fn an_empty_value_takes_an_override_back() {
        let read = local(&[("path", b"a"), ("path", b""), ("uid", b"1"), ("uid", b"")]).unwrap();
        assert_eq!((read.path, read.uid), (None, None));
    }
}
