//! A finished file that lies beside a layer's tree, until it is published: in memory, or in a file without a name.

use std::{
    fs::File,
    io::{self, Write},
};

/// The bytes of an index or a table, whole and checked.
#[derive(Debug)]
pub struct Sidecar(Held);

#[derive(Debug)]
enum Held {
    Bytes(Vec<u8>),
    /// Without a name: gone with the process. Large ones lie here, so that they take no memory.
    File {
        file: File,
        length: u64,
    },
}

/// Bytes copied at a time.
const PIECE: usize = 64 << 10;

impl Sidecar {
    pub(crate) fn from_file(file: File, length: u64) -> Self {
        Self(Held::File { file, length })
    }

    /// Its length in bytes; never zero.
    #[allow(clippy::len_without_is_empty, reason = "there is no empty one")]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Held::Bytes(bytes) => bytes.len() as u64,
            Held::File { length, .. } => *length,
        }
    }

    /// Reads bytes from a place in it.
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match &self.0 {
            Held::Bytes(all) => {
                let from = usize::try_from(at).ok().and_then(|at| all.get(at..at.checked_add(bytes.len())?));
                bytes.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Held::File { file, .. } => std::os::unix::fs::FileExt::read_exact_at(file, bytes, at),
        }
    }

    /// Writes all of it, in pieces.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        match &self.0 {
            Held::Bytes(bytes) => to.write_all(bytes),
            Held::File { file, length } => {
                let mut piece = vec![0; PIECE];
                let mut at = 0;
                while at < *length {
                    let count = (*length - at).min(PIECE as u64) as usize;
                    std::os::unix::fs::FileExt::read_exact_at(file, &mut piece[..count], at)?;
                    to.write_all(&piece[..count])?;
                    at += count as u64;
                }
                Ok(())
            }
        }
    }

    /// All of it, in memory.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.len()).unwrap_or(0));
        self.write_to(&mut bytes)?;
        Ok(bytes)
    }
}

impl From<Vec<u8>> for Sidecar {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Held::Bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_in_a_file_gives_the_bytes_that_one_in_memory_gives() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let in_file = Sidecar::from_file(file, bytes.len() as u64);
        assert_eq!(in_file.len(), bytes.len() as u64);
        assert_eq!(in_file.to_vec().unwrap(), bytes);
        assert_eq!(Sidecar::from(bytes.clone()).to_vec().unwrap(), bytes);
    }
}
