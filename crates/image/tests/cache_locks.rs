//! Every lock of a cache is waited for in the same way: whoever waits is told of, can be stopped, and gives up in time.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use microsandbox_image_core::{
    Digest, GlobalCache, ImageError, PullOptions, Registry, Settings,
    progress::{Event, Observer},
    pull::verify,
    store::{Depth, LayerFile, LockWait, PruneOptions, SkipReason, VerifyOptions},
};
use support::{Server, Store, Watch, images};
use tokio_util::sync::CancellationToken;

/// An abort ends any wait within this time.
const STOP: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_millis(300);

fn layer() -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    made.append_data(&mut header, "etc/file", &b"hello"[..]).unwrap();
    made.into_inner().unwrap()
}

/// Another process that holds a lock.
struct Holder(Child);

impl Holder {
    fn new(path: &Path) -> Self {
        let mut command = Command::new("flock");
        command.arg("--no-fork").arg(path).args(["sh", "-c", "echo held; exec cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("flock of util-linux");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Fixture {
    _temp: tempfile::TempDir,
    server: Server,
    runtime: tokio::runtime::Runtime,
    cache: GlobalCache,
}

type Work = fn(&Fixture, &LockWait) -> Result<(), ImageError>;

impl Fixture {
    fn new() -> Self {
        let (store, temp) = (Store::with_image(&[&layer()]), tempfile::tempdir().unwrap());
        let cache = GlobalCache::new(&temp.path().join("cache"));
        cache.prepare().unwrap();
        drop(cache.lease([&digest()]).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { _temp: temp, server: Server::start(move |request| store.reply(request)), runtime, cache }
    }

    fn pull(&self, wait: &LockWait) -> Result<(), ImageError> {
        let settings = Settings { lock_timeout: wait.timeout, ..Settings::default() };
        let registry = Registry::new(self.cache.clone(), support::amd64(), support::options(), settings).unwrap();
        let (reference, options) = (support::reference(&self.server.host), PullOptions::default());
        let pull = registry.pull(&reference, &options, Arc::clone(&wait.observer), wait.cancel.clone());
        self.runtime.block_on(pull).map(drop)
    }

    fn gc_lock(&self) -> PathBuf {
        self.cache.directory().join("leases/gc.lock")
    }

    /// All that is promised of a wait for the lock at `path`.
    fn holds(&self, path: &Path, work: Work) {
        let holder = Holder::new(path);
        let watch = Arc::new(Watch::default());
        let observer = Arc::clone(&watch) as Arc<dyn Observer>;
        let started = Instant::now();
        let wait = LockWait { timeout: Some(TIMEOUT), cancel: CancellationToken::new(), observer };
        let error = work(self, &wait).unwrap_err();
        assert_eq!(error.code(), "ERR_LOCK_TIMEOUT", "{path:?}: {error:?}");
        assert!(started.elapsed() >= TIMEOUT && started.elapsed() < TIMEOUT * 20, "{path:?}: {:?}", started.elapsed());
        let told = Event::LockWaiting { path: path.to_str().unwrap().into(), holder: Some(holder.0.id()) };
        let events = watch.0.lock().unwrap().clone();
        assert_eq!(events.iter().filter(|event| **event == told).count(), 1, "{path:?}: {events:?}");

        let cancel = CancellationToken::new();
        let wait = LockWait { timeout: None, cancel: cancel.clone(), ..LockWait::default() };
        let stopped = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let error = work(self, &wait).unwrap_err();
                assert!(error.is_aborted(), "{path:?}: {error:?}");
                Instant::now()
            });
            std::thread::sleep(Duration::from_millis(400));
            assert!(!work.is_finished(), "{path:?}: it did not wait");
            let stop = Instant::now();
            cancel.cancel();
            work.join().unwrap() - stop
        });
        assert!(stopped < STOP, "{path:?}: stopped after {stopped:?}");

        drop(holder);
        work(self, &LockWait::default()).unwrap();
    }
}

fn digest() -> Digest {
    images::sha256(&layer())
}

#[test]
fn a_pull_waits_for_each_of_its_locks_and_can_be_stopped_and_gives_up_in_time() {
    let reference = |fixture: &Fixture| support::reference(&fixture.server.host);
    let locks: [fn(&Fixture) -> PathBuf; 4] = [
        |fixture| fixture.cache.image_lock_path(&support::reference(&fixture.server.host), &support::amd64()),
        |fixture| fixture.gc_lock(),
        |fixture| fixture.cache.layer(&digest(), LayerFile::DownloadLock),
        |fixture| fixture.cache.layer(&digest(), LayerFile::Lock),
    ];
    for lock in locks {
        let fixture = Fixture::new();
        fixture.holds(&lock(&fixture), Fixture::pull);
        assert!(fixture.cache.lookup(&reference(&fixture), &support::amd64()).unwrap().is_some());
    }
}

#[test]
fn a_lease_a_prune_and_a_removal_wait_for_the_gc_lock_and_can_be_stopped_and_give_up_in_time() {
    let works: [Work; 3] = [
        |fixture, wait| fixture.cache.lease_with([&digest()], wait).map(drop),
        |fixture, wait| fixture.cache.prune_with(&PruneOptions::default(), wait).map(drop),
        |fixture, wait| fixture.cache.remove_with(&support::reference(&fixture.server.host), wait).map(drop),
    ];
    for work in works {
        let fixture = Fixture::new();
        fixture.pull(&LockWait::default()).unwrap();
        fixture.holds(&fixture.gc_lock(), work);
    }
}

#[test]
fn whoever_was_stopped_before_it_began_does_nothing() {
    let fixture = Fixture::new();
    fixture.pull(&LockWait::default()).unwrap();
    let wait = LockWait::default();
    wait.cancel.cancel();
    let reference = support::reference(&fixture.server.host);
    assert!(fixture.cache.remove_with(&reference, &wait).unwrap_err().is_aborted());
    assert!(fixture.cache.prune_with(&PruneOptions { keep: Some(0), ..Default::default() }, &wait).is_err());
    assert!(fixture.cache.lease_with([&digest()], &wait).is_err());
    assert!(fixture.cache.lookup(&reference, &support::amd64()).unwrap().is_some());
}

#[test]
fn a_verification_waits_for_no_lock_and_tells_what_it_skipped() {
    let fixture = Fixture::new();
    fixture.pull(&LockWait::default()).unwrap();
    for file in [LayerFile::DownloadLock, LayerFile::Lock] {
        let _holder = Holder::new(&fixture.cache.layer(&digest(), file));
        let _gc = Holder::new(&fixture.gc_lock());
        let started = Instant::now();
        let options = VerifyOptions { depth: Depth::Content, repair: true };
        let report = fixture.runtime.block_on(verify(&fixture.cache, options, CancellationToken::new())).unwrap();
        assert_eq!(report.skipped.iter().map(|skipped| skipped.reason).collect::<Vec<_>>(), [SkipReason::Locked]);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[test]
#[ignore = "a process of its own, which another test starts"]
fn leases() {
    let Ok(orders) = std::env::var("LEASES_IN") else { return };
    let cache = GlobalCache::new(Path::new(&orders));
    for _ in 0..50 {
        let lease = cache.lease([&digest()]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        drop(lease);
    }
    println!("process {} leased", std::process::id());
}

#[test]
fn eight_containers_whose_process_is_number_1_lease_in_one_cache() {
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc"]).args(arguments);
        command
    };
    if !unshare(&["true"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: no process namespace of one's own can be had here (unshare --pid)");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let arguments = [program.to_str().unwrap(), "--exact", "leases", "--ignored", "--nocapture"];
    let start = |_| {
        let mut command = unshare(&arguments);
        command
            .env("LEASES_IN", temp.path().join("cache"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..8).map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("process 1 leased"), "{text}");
    }
    assert_eq!(fs::read_dir(temp.path().join("cache/leases")).unwrap().count(), 1, "only the gc lock is left");
}
