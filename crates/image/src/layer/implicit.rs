//! The list of directories that no entry described: repeated `u32` length and path bytes (SPEC §4).

#[cfg(test)]
use crate::error::{ErrorKind, Result};

/// The list's bytes.
pub(crate) fn write_list(paths: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend_from_slice(&u32::try_from(path.len()).expect("a path is shorter than 4 GiB").to_le_bytes());
        bytes.extend_from_slice(path);
    }
    bytes
}

#[cfg(test)]
/// Reads a list. Fails with `ERR_CACHE` when it is cut short or a path would leave the layer.
pub(crate) fn read_list(mut bytes: &[u8], file: &str) -> Result<Vec<Vec<u8>>> {
    let damaged = |reason: &str| ErrorKind::Cache { path: file.to_owned(), reason: reason.to_owned() };
    let mut paths = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("the list is cut short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let path = rest.get(..length).ok_or_else(|| damaged("the list is cut short"))?;
        let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
        if !path.split(|&byte| byte == b'/').all(plain) {
            return Err(damaged("a path in the list leads elsewhere").into());
        }
        paths.push(path.to_vec());
        bytes = &rest[length..];
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let paths = vec![b"usr".to_vec(), b"usr/b\xff\nn".to_vec()];
        assert_eq!(read_list(&write_list(&paths), "x").unwrap(), paths);
        assert_eq!(read_list(b"", "x").unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_damaged_list_is_refused() {
        let whole = write_list(&[b"usr".to_vec()]);
        for bad in [&whole[..3], &whole[..6], &write_list(&[b"../x".to_vec()]), &write_list(&[b"/x".to_vec()])] {
            assert_eq!(read_list(bad, "x").unwrap_err().code(), "ERR_CACHE");
        }
    }
}
