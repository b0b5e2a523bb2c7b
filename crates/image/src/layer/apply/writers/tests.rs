//! What waits for a thread is bounded by its bytes, attributes included.

use super::*;
use crate::layer::batch::BATCH_BYTES;

fn meta(directory: &Arc<Handle>, xattr_bytes: usize) -> FileMeta {
    FileMeta {
        directory: Arc::clone(directory),
        name: c"file".into(),
        stat: OverrideStat { uid: 0, gid: 0, mode: 0o100_644, rdev: 0 },
        mtime: Timestamp::default(),
        xattrs: vec![(b"user.large".to_vec(), vec![0; xattr_bytes])],
        size: 0,
        stored: 0,
    }
}

/// Whether a job is handed over at once or waits for others.
fn handed_over(push: impl FnOnce(&mut Writers, &Arc<Handle>)) -> bool {
    let temp = tempfile::tempdir().unwrap();
    let directory = Handle::uncounted(std::fs::File::open(temp.path()).unwrap().into());
    let halt = Halt::default();
    std::thread::scope(|scope| {
        let (mut writers, threads) = Writers::start(scope, 1, Limits::default(), &halt);
        push(&mut writers, &directory);
        let waits = writers.0.is_empty(0);
        drop(writers);
        threads.join();
        waits
    })
}

#[test]
fn small_jobs_are_gathered_and_large_attributes_are_handed_over_at_once() {
    assert!(!handed_over(|writers, at| writers.file(0, meta(at, 10)).unwrap()));
    assert!(handed_over(|writers, at| writers.file(0, meta(at, BATCH_BYTES)).unwrap()));
    assert!(!handed_over(|writers, at| writers.stub(0, meta(at, 10), Box::default()).unwrap()));
    assert!(handed_over(|writers, at| writers.stub(0, meta(at, BATCH_BYTES), Box::default()).unwrap()));
    assert!(handed_over(|writers, at| writers.stub(0, meta(at, 0), vec![0; BATCH_BYTES].into()).unwrap()));
}
