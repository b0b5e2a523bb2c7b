//! Compressed bytes → uncompressed bytes: gzip of any number of members, zstd of any number of frames, plain.
//!
//! The first bytes decide which it is; the media type is only a label and registries hold wrong ones.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

use crate::error::{ErrorKind, ImageError, Result};

/// Where compressed bytes come from, in order, in pieces of any length.
pub trait Source {
    /// The next piece; `None` at the end. An empty piece is not the end.
    fn next_piece(&mut self) -> Result<Option<Bytes>>;
}

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// A bare tar.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Tells by the first bytes of a blob ([`SNIFFED`] are enough).
    fn sniff(bytes: &[u8]) -> std::result::Result<Self, &'static str> {
        match bytes {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame may stand first (zstd:chunked writes one at the end, pzstd at the start).
            [magic, 0x2a, 0x4d, 0x18, ..] if magic & 0xf0 == 0x50 => Ok(Self::Zstd),
            // The start of the first block too: a bare tar may begin with a name such as "BZh9".
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            _ => Ok(Self::None),
        }
    }
}

/// Bytes that tell how a blob is compressed.
const SNIFFED: usize = 10;

/// Reads a layer's uncompressed bytes.
pub(crate) struct Decoder<S: Source>(Kind<S>);

enum Kind<S: Source> {
    Plain(Pieces<S>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Pieces<S>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Pieces<S>>>),
}

impl<S: Source> Decoder<S> {
    /// Looks at the first bytes and sets up what decodes them. Fails with `ERR_UNSUPPORTED_MEDIA_TYPE` on bzip2 or xz.
    pub(crate) fn new(source: S) -> Result<Self> {
        let mut pieces = Pieces { source, piece: Bytes::new(), failure: None };
        let head = pieces.peek(SNIFFED)?;
        let compression = Compression::sniff(&head).map_err(|name| ErrorKind::UnsupportedMediaType {
            media_type: name.to_owned(),
            what: "the layer's bytes (gzip, zstd and plain tar are supported)".to_owned(),
        })?;
        Ok(Self(match compression {
            Compression::None => Kind::Plain(pieces),
            Compression::Gzip => Kind::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(pieces))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(pieces);
                Kind::Zstd(Box::new(decoder.map_err(|error| damaged("zstd", error))?))
            }
        }))
    }

    /// Fills `room` with uncompressed bytes and returns how many; fewer than its length only at the end.
    pub(crate) fn fill(&mut self, room: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < room.len() {
            let (read, name) = match &mut self.0 {
                Kind::Plain(reader) => (reader.read(&mut room[filled..]), "plain"),
                Kind::Gzip(reader) => (reader.read(&mut room[filled..]), "gzip"),
                Kind::Zstd(reader) => (reader.read(&mut room[filled..]), "zstd"),
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.pieces().failure.take().unwrap_or_else(|| damaged(name, error))),
            }
        }
        Ok(filled)
    }

    /// Reads whatever compressed bytes a decoder left untouched, so that the source sees its own end.
    pub(crate) fn drain_source(&mut self) -> Result<()> {
        let pieces = self.pieces();
        pieces.piece = Bytes::new();
        while pieces.source.next_piece()?.is_some() {}
        Ok(())
    }

    fn pieces(&mut self) -> &mut Pieces<S> {
        match &mut self.0 {
            Kind::Plain(reader) => reader,
            Kind::Gzip(reader) => reader.get_mut(),
            Kind::Zstd(reader) => reader.get_mut(),
        }
    }
}

fn damaged(name: &str, error: io::Error) -> ImageError {
    let reason = format!("the {name} stream is damaged or ends too soon");
    ErrorKind::Extraction { entry: None, reason }.caused_by(error)
}

/// The source as a buffered reader; our own errors are kept aside, since `io::Error` can't carry them out unchanged.
struct Pieces<S> {
    source: S,
    piece: Bytes,
    failure: Option<ImageError>,
}

impl<S: Source> Pieces<S> {
    /// The first `count` bytes, or all if there are fewer, left in place.
    fn peek(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        while head.len() < count {
            match self.source.next_piece()? {
                None => break,
                Some(piece) if head.is_empty() && piece.len() >= count => {
                    self.piece = piece;
                    return Ok(self.piece[..count].to_vec());
                }
                Some(piece) => head.extend_from_slice(&piece),
            }
        }
        self.piece = Bytes::from(head);
        Ok(self.piece[..count.min(self.piece.len())].to_vec())
    }
}

impl<S: Source> BufRead for Pieces<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.source.next_piece() {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => break,
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the source failed"));
                }
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        let _ = self.piece.split_to(count);
    }
}

impl<S: Source> Read for Pieces<S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(room.len());
        room[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Gives the bytes in pieces of `step`.
    struct Chopped(Bytes, usize);

    impl Source for Chopped {
        fn next_piece(&mut self) -> Result<Option<Bytes>> {
            let count = self.1.min(self.0.len());
            Ok((count > 0).then(|| self.0.split_to(count)))
        }
    }

    fn decode(bytes: Vec<u8>, step: usize) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new(Chopped(bytes.into(), step))?;
        let mut out = vec![0; 1 << 20];
        let count = decoder.fill(&mut out)?;
        out.truncate(count);
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_of_several_members_is_read_to_the_end() {
        let blob = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        for step in [1, 2, 7, 1000] {
            assert_eq!(decode(blob.clone(), step).unwrap(), b"one two", "pieces of {step}");
        }
    }

    #[test]
    fn zstd_of_several_and_skippable_frames_is_read_to_the_end() {
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        let blob = [&skippable[..], &frame(b"one "), &skippable, &frame(b"two"), &skippable].concat();
        for step in [1, 3, 1000] {
            assert_eq!(decode(blob.clone(), step).unwrap(), b"one two", "pieces of {step}");
        }
    }

    #[test]
    fn plain_and_empty_streams_pass_through() {
        assert_eq!(decode(b"plain bytes".to_vec(), 2).unwrap(), b"plain bytes");
        assert_eq!(decode(Vec::new(), 2).unwrap(), b"");
        assert_eq!(decode(vec![0x1f], 2).unwrap(), [0x1f]);
    }

    #[test]
    fn damage_is_an_extraction_error() {
        let mut wrong_sum = gzip(b"hello");
        let at = wrong_sum.len() - 8;
        wrong_sum[at] ^= 1;
        let mut wrong_length = gzip(b"hello");
        *wrong_length.last_mut().unwrap() ^= 1;
        let cut = gzip(&[7; 4000])[..20].to_vec();
        let cut_frame = zstd::encode_all(&[7; 4000][..], 1).unwrap()[..10].to_vec();
        for bad in [wrong_sum, wrong_length, cut, cut_frame, [gzip(b"x"), b"junk".to_vec()].concat()] {
            assert_eq!(decode(bad, 5).unwrap_err().code(), "ERR_EXTRACTION");
        }
    }

    #[test]
    fn bzip2_and_xz_are_named_and_refused() {
        for (bytes, name) in [(&b"BZh91AY&SY"[..], "bzip2"), (&b"\xfd7zXZ\0\0"[..], "xz")] {
            let error = decode(bytes.to_vec(), 100).unwrap_err();
            assert_eq!(error.code(), "ERR_UNSUPPORTED_MEDIA_TYPE");
            assert!(error.to_string().contains(name));
        }
    }

    #[test]
    fn an_error_of_the_source_comes_out_unchanged() {
        struct Broken(bool);
        impl Source for Broken {
            fn next_piece(&mut self) -> Result<Option<Bytes>> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(ImageError::aborted());
                }
                Ok(Some(Bytes::from(gzip(&[1; 100])[..15].to_vec())))
            }
        }
        let mut decoder = Decoder::new(Broken(false)).unwrap();
        assert!(decoder.fill(&mut [0; 200]).unwrap_err().is_aborted());
    }
}
