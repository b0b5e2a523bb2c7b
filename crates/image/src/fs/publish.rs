//! A file appears whole or not at all: written beside, then renamed.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{ImageError, Result},
    fs::{Lock, random_name, step},
};

/// How often a name is chosen anew: in the moment before it is locked, an unfinished file may be swept by a process that takes
/// it for a leftover.
const MAX_TRIES: usize = 16;

/// Writes `bytes` to a file of its own beside `path`, `<path>.<random>.part`, and renames it to `path`. Whoever publishes the
/// same at the same time does no harm: one of the two is there in the end, whole.
///
/// The unfinished file is locked, which tells those who sweep that somebody is at work on it.
pub(crate) fn publish_file(path: &Path, bytes: &[u8]) -> Result<()> {
    publish_file_with(path, |file| file.write_all(bytes))
}

/// The same of what `write` writes; it may be called again.
pub(crate) fn publish_file_with(path: &Path, write: impl Fn(&mut &fs::File) -> io::Result<()>) -> Result<()> {
    publish_with_mode(path, 0o644, write)
}

/// [`publish_file`] for a file that its owner alone may read.
pub(crate) fn publish_private_file(path: &Path, bytes: &[u8]) -> Result<()> {
    publish_with_mode(path, 0o600, |file| file.write_all(bytes))
}

fn publish_with_mode(path: &Path, mode: u32, write: impl Fn(&mut &fs::File) -> io::Result<()>) -> Result<()> {
    for _ in 0..MAX_TRIES {
        if publish_beside(path, mode, &write)? {
            return Ok(());
        }
    }
    Err(ImageError::io("rename into place", path, io::Error::from(io::ErrorKind::NotFound)))
}

/// False if the unfinished file went away before it was renamed.
fn publish_beside(path: &Path, mode: u32, write: &impl Fn(&mut &fs::File) -> io::Result<()>) -> Result<bool> {
    let beside = beside(path)?;
    let Some(lock) = Lock::create(&beside, mode)? else { return Ok(false) };
    step("write", &beside);
    let written = write(&mut lock.file()).map_err(|error| ImageError::io("write", &beside, error));
    step("rename", &beside);
    let renamed = written.and_then(|()| match fs::rename(&beside, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("rename into place", path, error)),
    });
    if renamed.is_err() {
        let _ = fs::remove_file(beside);
    }
    renamed
}

fn beside(path: &Path) -> Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", random_name()?));
    Ok(name.into())
}

/// Gives a file or tree its final name; what had that name before is gone.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    step("rename", from);
    fs::rename(from, to).map_err(|error| ImageError::io("rename into place", to, error))
}

/// Makes a directory that is not there, for its owner alone.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    step("create", path);
    fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| ImageError::io("create", path, error))
}

/// Removes a file; says whether it was there.
pub(crate) fn remove_file_if_there(path: &Path) -> Result<bool> {
    step("remove", path);
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("remove", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn many_who_publish_one_file_at_a_time_all_succeed_and_it_is_always_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.json");
        let texts: Vec<Vec<u8>> = (0..6u8).map(|at| vec![b'a' + at; 50_000 + 1000 * usize::from(at)]).collect();
        publish_file(&path, &texts[0]).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = texts
                .iter()
                .map(|text| scope.spawn(|| (0..100).for_each(|_| publish_file(&path, text).unwrap())))
                .collect();
            // One takes what is unfinished for a leftover.
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    for entry in fs::read_dir(temp.path()).unwrap().flatten() {
                        let path = entry.path();
                        if path.extension().is_some_and(|extension| extension == "part")
                            && let Some(_lock) = Lock::try_acquire(&path).unwrap()
                        {
                            fs::remove_file(path).unwrap();
                        }
                    }
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    assert!(texts.contains(&fs::read(&path).unwrap()), "half a file was published");
                }
            });
            let failed = writers.into_iter().map(|writer| writer.join().is_err()).collect::<Vec<_>>();
            done.store(true, Ordering::SeqCst);
            assert_eq!(failed, [false; 6]);
        });
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
