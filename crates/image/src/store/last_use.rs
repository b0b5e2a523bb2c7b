//! When an image was last used: the modification time of its metadata file, moved on at most once an hour.
//!
//! A hit must cost nothing and work on a read-only cache, so nothing is written while the time is recent, and a failure
//! to write it is none.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::fs::open_file;

/// How exactly last use is known.
const PRECISION: Duration = Duration::from_secs(3600);

/// Records that the metadata at `path` answered a pull.
pub(super) fn record_use(path: &Path) {
    let now = SystemTime::now();
    let recent = fs::symlink_metadata(path).and_then(|file| file.modified());
    // A time in the future is wrong as well, or the image would never be the one least recently used.
    let recent = recent.is_ok_and(|last| match now.duration_since(last) {
        Ok(since) => since < PRECISION,
        Err(ahead) => ahead.duration() < PRECISION,
    });
    if !recent {
        let _ = open_file(path).map(|file| file.set_modified(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_use_is_recorded_at_most_once_an_hour() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.json");
        let age = |age: Duration| {
            fs::write(&path, "{}").unwrap();
            let then = SystemTime::now() - age;
            fs::File::open(&path).unwrap().set_modified(then).unwrap();
            record_use(&path);
            let now = fs::metadata(&path).unwrap().modified().unwrap();
            now.duration_since(then).unwrap()
        };
        assert_eq!(age(Duration::from_secs(1800)), Duration::ZERO);
        assert!(age(Duration::from_secs(7200)) >= Duration::from_secs(7199));
        record_use(&temp.path().join("missing"));
    }
}
