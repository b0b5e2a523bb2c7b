//! Archives made from raw bytes: every field can be wrong on purpose.

/// One header; what is not set is what a plain file has.
#[derive(Clone)]
pub struct Header(pub [u8; 512]);

pub const MTIME: i64 = 1_000_000_000;

impl Header {
    /// A ustar header with its checksum.
    pub fn new(kind: u8, path: &[u8]) -> Self {
        let mut header = Self([0; 512]);
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header.0[156] = kind;
        header
            .bytes(0, 100, path)
            .octal(100, 8, if kind == b'5' { 0o755 } else { 0o644 })
            .uid(0)
            .gid(0)
            .size(0)
            .mtime(MTIME)
    }

    pub fn bytes(mut self, at: usize, room: usize, text: &[u8]) -> Self {
        assert!(text.len() <= room, "{} does not fit in {room}", String::from_utf8_lossy(text));
        self.0[at..at + room].fill(0);
        self.0[at..at + text.len()].copy_from_slice(text);
        self.sum()
    }

    pub fn octal(self, at: usize, room: usize, value: i64) -> Self {
        let width = room - 1;
        self.bytes(at, room, format!("{value:0width$o}\0").as_bytes())
    }

    /// GNU's form of numbers that are too large or negative.
    pub fn base256(self, at: usize, room: usize, value: i128) -> Self {
        let mut bytes = value.to_be_bytes()[16 - room..].to_vec();
        bytes[0] |= 0x80;
        self.bytes(at, room, &bytes)
    }

    pub fn mode(self, mode: i64) -> Self {
        self.octal(100, 8, mode)
    }

    pub fn uid(self, uid: i64) -> Self {
        self.octal(108, 8, uid)
    }

    pub fn gid(self, gid: i64) -> Self {
        self.octal(116, 8, gid)
    }

    pub fn size(self, size: u64) -> Self {
        self.octal(124, 12, size as i64)
    }

    pub fn mtime(self, seconds: i64) -> Self {
        self.octal(136, 12, seconds)
    }

    pub fn link(self, target: &[u8]) -> Self {
        self.bytes(157, 100, target)
    }

    pub fn magic(self, magic: &[u8; 8]) -> Self {
        self.bytes(257, 8, magic)
    }

    pub fn device(self, major: i64, minor: i64) -> Self {
        self.octal(329, 8, major).octal(337, 8, minor)
    }

    pub fn prefix(self, prefix: &[u8]) -> Self {
        self.bytes(345, 155, prefix)
    }

    /// Puts the right checksum in.
    pub fn sum(mut self) -> Self {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }
}

/// An archive under construction.
#[derive(Clone, Default)]
pub struct Archive(pub Vec<u8>);

pub fn archive() -> Archive {
    Archive::default()
}

impl Archive {
    /// A header and bytes behind it, padded to whole records.
    pub fn put(mut self, header: Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(&header.0);
        self.raw(content)
    }

    /// Bytes, padded to whole records.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.file_bytes(path.as_bytes(), content.as_bytes())
    }

    pub fn file_bytes(self, path: &[u8], content: &[u8]) -> Self {
        self.put(Header::new(b'0', path).size(content.len() as u64), content)
    }

    pub fn dir(self, path: &str) -> Self {
        self.put(Header::new(b'5', path.as_bytes()), b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.put(Header::new(b'2', path.as_bytes()).link(target.as_bytes()), b"")
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.put(Header::new(b'1', path.as_bytes()).link(target.as_bytes()), b"")
    }

    /// An extended header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extension(b'x', &pax(records))
    }

    /// An extended header for all that follow.
    pub fn pax_global(self, records: &[(&str, &[u8])]) -> Self {
        self.extension(b'g', &pax(records))
    }

    pub fn extension(self, kind: u8, bytes: &[u8]) -> Self {
        self.put(Header::new(kind, b"././@Extension").size(bytes.len() as u64), bytes)
    }

    pub fn long_name(self, name: &[u8]) -> Self {
        self.extension(b'L', &[name, b"\0"].concat())
    }

    pub fn long_link(self, target: &[u8]) -> Self {
        self.extension(b'K', &[target, b"\0"].concat())
    }

    /// The two records of zeros.
    pub fn end(mut self) -> Self {
        self.0.extend_from_slice(&[0; 1024]);
        self
    }
}

/// The records of an extended header.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    records.iter().flat_map(|(key, value)| pax_record(key, value)).collect()
}

pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length = (1..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
    [length.to_string().as_bytes(), &rest].concat()
}
