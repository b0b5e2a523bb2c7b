//! Trees on their way out: renamed at once, removed in the background, so that nobody waits for a deletion.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    error::{ImageError, Result},
    fs::remove_tree,
};

/// Prefix of the names under which trees are thrown away.
pub(crate) const TRASH_PREFIX: &str = ".trash-";

/// Takes a tree out of the way. It is removed by a thread of its own; what a crash leaves is swept later.
pub(super) fn throw_away(tree: &Path) -> Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let Some(parent) = tree.parent() else { return Ok(()) };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let trash = parent.join(format!("{TRASH_PREFIX}{}-{number}", std::process::id()));
    match fs::rename(tree, &trash) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ImageError::io("rename", tree, error)),
    }
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
            let _ = gone.recv_timeout(std::time::Duration::from_millis(100));
            Ok(())
        }
        Err(_) => remove_tree(&trash),
    }
}
