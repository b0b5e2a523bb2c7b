//! Sparse files: where their data goes and where their holes are. PAX formats 0.0, 0.1 and 1.0, and the old GNU one
//! (GNU tar manual, "Storing Sparse Files").

use crate::{
    error::Result,
    layer::tar::{
        field::number,
        header::{RECORD, damaged},
    },
};

/// Data at an offset of the file; what lies between segments is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// More segments than any real file has; bounds the memory a hostile map can take to 16 MiB.
pub(super) const MOST_SEGMENTS: usize = 1 << 20;

/// Checks a map: in order, without overlap, inside the file, and just as long as what the archive stores.
pub(super) fn check_map(map: &[Segment], real_size: u64, stored: u64, path: &[u8]) -> Result<()> {
    let mut end = 0;
    let mut total = 0u64;
    for segment in map {
        let next = segment.offset.checked_add(segment.length).filter(|_| segment.offset >= end);
        end = next.ok_or_else(|| damaged(path, "the sparse map's segments overlap or run backwards".to_owned()))?;
        total = total.saturating_add(segment.length);
    }
    if end > real_size {
        return Err(damaged(path, "the sparse map reaches beyond the file's size".to_owned()));
    }
    if total != stored {
        return Err(damaged(path, format!("the sparse map holds {total} bytes, the archive {stored}")));
    }
    Ok(())
}

/// Reads up to `room` segments of an old GNU header or of one of its extension records. An empty field ends the list.
pub(super) fn gnu_segments(bytes: &[u8], map: &mut Vec<Segment>, path: &[u8]) -> Result<()> {
    for pair in bytes.chunks_exact(24) {
        if pair[12] == 0 || pair[0] == 0 {
            break;
        }
        let read = |field| number(field).and_then(|value| u64::try_from(value).ok());
        match (read(&pair[..12]), read(&pair[12..])) {
            (Some(offset), Some(length)) => map.push(Segment { offset, length }),
            _ => return Err(damaged(path, "a sparse segment is no number".to_owned())),
        }
        if map.len() > MOST_SEGMENTS {
            return Err(damaged(path, "the sparse map has too many segments".to_owned()));
        }
    }
    Ok(())
}

/// The map of format 1.0 stands before the data: decimal numbers a line each, the count first, padded to a record.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    expected: Option<usize>,
    number: Option<u64>,
    offset: Option<u64>,
    pub(super) map: Vec<Segment>,
}

impl MapReader {
    /// Takes one record of the map; true when the map is complete with it.
    pub(super) fn take(&mut self, record: &[u8; RECORD], stored: u64, path: &[u8]) -> Result<bool> {
        let wrong = |reason: &str| damaged(path, format!("the sparse map {reason}"));
        for &byte in record {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let value = self.number.unwrap_or(0).checked_mul(10).and_then(|value| value.checked_add(digit));
                    self.number = Some(value.ok_or_else(|| wrong("has a number that does not fit"))?);
                }
                b'\n' => {
                    let value = self.number.take().ok_or_else(|| wrong("has an empty line"))?;
                    self.line(value, stored).map_err(wrong)?;
                    if self.expected == Some(self.map.len()) && self.offset.is_none() {
                        return Ok(true);
                    }
                }
                _ => return Err(wrong("is not made of decimal numbers")),
            }
        }
        Ok(false)
    }

    fn line(&mut self, value: u64, stored: u64) -> Result<(), &'static str> {
        match (self.expected, self.offset.take()) {
            (None, _) => {
                // Each segment takes at least four bytes of the map itself.
                let most = usize::try_from(stored / 4).unwrap_or(usize::MAX).min(MOST_SEGMENTS);
                let count = usize::try_from(value).ok().filter(|&count| count <= most);
                self.expected = Some(count.ok_or("has too many segments")?);
            }
            (Some(_), None) => self.offset = Some(value),
            (Some(_), Some(offset)) => self.map.push(Segment { offset, length: value }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, length: u64) -> Segment {
        Segment { offset, length }
    }

    #[test]
    fn a_map_that_lies_is_refused() {
        assert!(check_map(&[segment(0, 5), segment(10, 5)], 20, 10, b"f").is_ok());
        assert!(check_map(&[], 20, 0, b"f").is_ok());
        for (map, size, stored) in [
            (vec![segment(10, 5), segment(0, 5)], 20, 10),
            (vec![segment(0, 6), segment(5, 5)], 20, 11),
            (vec![segment(0, 25)], 20, 25),
            (vec![segment(0, 5)], 20, 6),
            (vec![segment(u64::MAX, 2)], 20, 2),
        ] {
            assert_eq!(check_map(&map, size, stored, b"f").unwrap_err().code(), "ERR_EXTRACTION", "{map:?}");
        }
    }

    #[test]
    fn a_claim_of_too_many_segments_ends_at_once() {
        let mut record = [0; RECORD];
        record[..13].copy_from_slice(b"100000000000\n");
        assert!(MapReader::default().take(&record, u64::MAX, b"f").is_err());
        let mut record = [0; RECORD];
        record[..5].copy_from_slice(b"1000\n");
        assert!(MapReader::default().take(&record, 512, b"f").is_err());
    }
}
