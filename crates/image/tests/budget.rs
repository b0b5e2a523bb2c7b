//! What all pulls of a Registry, and all extractions, use together has one bound.

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use microsandbox_image_core::{
    GlobalCache, PullOptions, Reference, Registry, Result, Settings,
    layer::{Source, Unpack, probe_host, unpack},
    progress::Unobserved,
};
use support::{Server, Store, images};
use tokio::{runtime::Runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

fn layer(name: &str) -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    made.append_data(&mut header, format!("opt/{name}"), &b"text"[..]).unwrap();
    made.into_inner().unwrap()
}

fn registry(cache: &Path, settings: Settings) -> Registry {
    Registry::new(GlobalCache::new(cache), support::amd64(), support::options(), settings).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// How many of something there are at a time.
#[derive(Default)]
struct Meter {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Meter {
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let done = work();
        self.now.fetch_sub(1, Ordering::SeqCst);
        done
    }
}

/// The most descriptors below a directory that this process had open at a time, while something was done.
fn most_open<T>(below: &Path, work: impl FnOnce() -> T) -> (T, usize) {
    let (done, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let open = || {
        let list = fs::read_dir("/proc/self/fd").unwrap().flatten();
        list.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(below))).count()
    };
    let out = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(open(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let out = work();
        done.store(true, Ordering::Relaxed);
        out
    });
    (out, most.load(Ordering::Relaxed))
}

#[test]
fn forty_pulls_of_a_registry_with_concurrency_two_make_two_downloads_at_a_time() {
    let mut store = Store::default();
    for pull in 0..40 {
        let layers = [layer(&format!("{pull}/a")), layer(&format!("{pull}/b"))];
        let manifest = store.image("linux/amd64", &[&layers[0], &layers[1]]);
        store.tag(&format!("image{pull}"), images::OCI_MANIFEST, &manifest);
    }
    let meter = Arc::new(Meter::default());
    let (counted, bodies) = (Arc::clone(&meter), store.clone());
    // A config is a blob too, but small and no download of a layer.
    let server = Server::start(move |request| {
        let reply = bodies.reply(request);
        let is_layer = request.path.contains("/blobs/") && !reply.body.starts_with(b"{");
        if is_layer {
            counted.during(|| thread::sleep(Duration::from_millis(10)))
        }
        reply
    });
    let temp = tempfile::tempdir().unwrap();
    let registry = registry(temp.path(), Settings { concurrency: 2, ..Settings::default() });
    runtime().block_on(async {
        let mut pulls = JoinSet::new();
        for pull in 0..40 {
            let registry = registry.clone();
            let reference = Reference::parse(&format!("{}/team/app:image{pull}", server.host)).unwrap();
            pulls.spawn(async move {
                let never = CancellationToken::new();
                registry.pull(&reference, &PullOptions::default(), Arc::new(Unobserved), never).await.unwrap()
            });
        }
        pulls.join_all().await
    });
    assert_eq!(meter.most.load(Ordering::SeqCst), 2);
}

#[test]
fn a_small_pull_does_not_wait_for_all_of_a_large_one() {
    let many: Vec<Vec<u8>> = (0..60).map(|at| layer(&at.to_string())).collect();
    let mut store = Store::default();
    let large = store.image("linux/amd64", &many.iter().map(Vec::as_slice).collect::<Vec<_>>());
    store.tag("large", images::OCI_MANIFEST, &large);
    let small = store.image("linux/amd64", &[&layer("small")]);
    store.tag("small", images::OCI_MANIFEST, &small);
    let server = Server::start(move |request| {
        if request.path.contains("/blobs/") {
            thread::sleep(Duration::from_millis(30));
        }
        store.reply(request)
    });
    let temp = tempfile::tempdir().unwrap();
    let registry = registry(temp.path(), Settings { concurrency: 1, ..Settings::default() });
    let reference = |tag| Reference::parse(&format!("{}/team/app:{tag}", server.host)).unwrap();
    runtime().block_on(async {
        let (first, large) = (registry.clone(), reference("large"));
        let large = tokio::spawn(async move {
            first.pull(&large, &PullOptions::default(), Arc::new(Unobserved), CancellationToken::new()).await
        });
        while server.asked("/blobs/").len() < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let never = CancellationToken::new();
        registry.pull(&reference("small"), &PullOptions::default(), Arc::new(Unobserved), never).await.unwrap();
        let asked = server.asked("/blobs/").len();
        assert!(!large.is_finished() && asked < 40, "{asked} blobs were asked for before the small image was there");
        large.await.unwrap().unwrap();
    });
}

#[test]
fn descriptors_do_not_grow_with_the_number_of_layers() {
    let layers: Vec<Vec<u8>> = (0..300).map(|at| layer(&at.to_string())).collect();
    let store = Store::with_image(&layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let settings = Settings { concurrency: 3, extractions: 2, ..Settings::default() };
    let (registry, reference) = (registry(temp.path(), settings), support::reference(&server.host));
    let (pulled, open) = most_open(temp.path(), || {
        let never = CancellationToken::new();
        let options = PullOptions::default();
        runtime().block_on(registry.pull(&reference, &options, Arc::new(Unobserved), never))
    });
    assert_eq!(pulled.unwrap().layers.len(), 300);
    assert!(open < 120, "{open} files and directories of the cache were open at a time");
}

/// Gives the bytes in pieces.
struct Pieces(Bytes);

impl Source for Pieces {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let count = self.0.len().min(100_000);
        Ok((count > 0).then(|| self.0.split_to(count)))
    }
}

/// A layer of directories with one file each; each file has a second name in the directory before.
fn directories(count: usize) -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    for at in 0..count {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        made.append_data(&mut header, format!("opt/{at}/file"), &b"text"[..]).unwrap();
        if at > 0 {
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(tar::EntryType::Link);
            link.set_size(0);
            made.append_link(&mut link, format!("opt/{}/link", at - 1), format!("opt/{at}/file")).unwrap();
        }
    }
    made.into_inner().unwrap()
}

#[test]
fn descriptors_do_not_grow_with_the_number_of_directories() {
    let archive = Bytes::from(directories(2000));
    let memory = Path::new("/dev/shm");
    let host = if probe_host(memory).is_ok() { memory.to_owned() } else { std::env::temp_dir() };
    for (writers, directories) in [(1, 8), (2, 16), (3, 48)] {
        let temp = tempfile::tempdir_in(&host).unwrap();
        let how = Unpack { writers, directories, ..Unpack::default() };
        let (unpacked, open) = most_open(temp.path(), || unpack(Pieces(archive.clone()), temp.path(), how));
        assert_eq!(unpacked.unwrap().entries, 3 * 2000);
        // The root's handle, one for each thread that finishes directories, and a file for each writer.
        let beside = 2 + 2 * writers;
        assert!(open <= directories.max(8 * writers) + beside, "{open} were open, {directories} may be");
    }
}

/// The names in a directory that were opened since it was watched.
struct Opened(std::os::fd::OwnedFd);

impl Opened {
    fn watch(directory: &Path) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        add_watch(&watch, directory, WatchFlags::OPEN).unwrap();
        Self(watch)
    }

    fn names(&self) -> Vec<String> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = rustix::fs::inotify::Reader::new(&self.0, &mut buffer);
        let mut names = Vec::new();
        while let Ok(event) = events.next() {
            names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        names
    }
}

#[test]
fn the_files_that_a_pull_opens_do_not_grow_with_the_number_of_images() {
    let layer = layer("one");
    let store = Store::with_image(&[&layer]);
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let registry = registry(temp.path(), Settings::default());
    let (cache, reference) = (registry.cache(), support::reference(&server.host));
    cache.prepare().unwrap();
    // A crash left something to sweep as well.
    fs::create_dir(cache.layers_dir().join(".trash-1-1")).unwrap();
    let mine = cache.image_metadata_path(&reference, &support::amd64());
    let mine = mine.file_stem().unwrap().to_str().unwrap();
    for image in 0..200 {
        let key = images::sha256(format!("{image}").as_bytes()).to_string().replace("sha256:", "");
        fs::write(cache.images_dir().join(format!("{key}.json")), "{}").unwrap();
        fs::write(cache.images_dir().join(format!("{key}.lock")), "").unwrap();
    }
    let opened = Opened::watch(cache.images_dir());
    let (options, never) = (PullOptions::default(), CancellationToken::new());
    runtime().block_on(registry.pull(&reference, &options, Arc::new(Unobserved), never)).unwrap();
    let names = opened.names();
    assert!(names.iter().any(|name| name.starts_with(mine)), "its own files are seen: {names:?}");
    assert!(names.iter().all(|name| name.starts_with(mine)), "{names:?}");
    assert!(!cache.layers_dir().join(".trash-1-1").exists(), "what a crash left is swept all the same");
}
