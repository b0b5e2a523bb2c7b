//! Trees on their way out: renamed at once, removed in the background, so that nobody waits for a deletion.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use crate::{
    error::{ImageError, Result},
    fs::{remove_tree, step},
};

/// Prefix of the names under which trees are thrown away.
pub(super) const TRASH_PREFIX: &str = ".trash-";

/// How long a deletion is waited for. Tests that kill at each step want the same order of steps in every run.
const PATIENCE: Duration = Duration::from_millis(if cfg!(feature = "fail-points") { 30_000 } else { 100 });

/// Takes a tree out of the way. It is removed by a thread of its own; what a crash leaves is swept later.
pub(crate) fn throw_away(tree: &Path) -> Result<()> {
    let Some(trash) = take_away(tree)? else { return Ok(()) };
    // Most are small and gone before anybody looks; a large one goes on alone.
    let (done, gone) = std::sync::mpsc::sync_channel::<()>(1);
    let removal = std::thread::Builder::new().name("image-trash".to_owned()).spawn({
        let trash = trash.clone();
        move || {
            if let Err(error) = remove_tree(&trash) {
                tracing::warn!(%error, "a tree on its way out could not be removed");
            }
            let _ = done.send(());
        }
    });
    match removal {
        Ok(_) => {
            let _ = gone.recv_timeout(PATIENCE);
            Ok(())
        }
        Err(_) => remove_tree(&trash),
    }
}

/// Renames what is at `tree`, whatever it is, to a name that says it is going. `None` if nothing is there.
pub(super) fn take_away(tree: &Path) -> Result<Option<PathBuf>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let Some(parent) = tree.parent() else { return Ok(None) };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // Process ids come again, in containers soon: the time keeps the name from being one that a crash left.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let trash = parent.join(format!("{TRASH_PREFIX}{}-{now:x}-{number}", std::process::id()));
    step("rename", tree);
    match fs::rename(tree, &trash) {
        Ok(()) => Ok(Some(trash)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("rename", tree, error)),
    }
}
