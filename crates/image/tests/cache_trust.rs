//! What lies in a cache is believed only where it belongs to somebody who is trusted, and nothing planted in it blocks.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use microsandbox_image_core::{
    Digest, GlobalCache, ImageError, PullOptions, PullResult, Registry, Settings,
    progress::Unobserved,
    pull::verify,
    store::{Depth, LayerFile, PruneOptions, VerifyOptions},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::{Server, Store, images};
use tokio_util::sync::CancellationToken;

/// Nobody on this machine.
const STRANGER: u32 = 54_321;

fn layer() -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    made.append_data(&mut header, "etc/file", &b"hello"[..]).unwrap();
    made.into_inner().unwrap()
}

fn digest() -> Digest {
    images::sha256(&layer())
}

struct Fixture {
    _temp: tempfile::TempDir,
    server: Server,
    runtime: tokio::runtime::Runtime,
    directory: PathBuf,
}

impl Fixture {
    /// A cache with an image.
    fn new() -> Self {
        let (store, temp) = (Store::with_image(&[&layer()]), tempfile::tempdir().unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let directory = temp.path().join("cache");
        let fixture =
            Self { _temp: temp, server: Server::start(move |request| store.reply(request)), runtime, directory };
        fixture.pull(&fixture.cache()).unwrap();
        fixture
    }

    fn cache(&self) -> GlobalCache {
        GlobalCache::new(&self.directory)
    }

    fn registry(&self, cache: &GlobalCache) -> Registry {
        Registry::new(cache.clone(), support::amd64(), support::options(), Settings::default()).unwrap()
    }

    fn pull(&self, cache: &GlobalCache) -> Result<PullResult, ImageError> {
        let (reference, options) = (support::reference(&self.server.host), PullOptions::default());
        let registry = self.registry(cache);
        self.runtime.block_on(registry.pull(&reference, &options, Arc::new(Unobserved), CancellationToken::new()))
    }

    fn cached(&self, cache: &GlobalCache) -> Result<bool, ImageError> {
        let cached = self.registry(cache).pull_cached(&support::reference(&self.server.host), None);
        cached.map(|hit| hit.is_some())
    }

    fn metadata(&self) -> PathBuf {
        self.cache().image_metadata_path(&support::reference(&self.server.host), &support::amd64())
    }

    /// All that a hit believes.
    fn believed(&self) -> [PathBuf; 5] {
        let cache = self.cache();
        [
            self.directory.clone(),
            cache.layers_dir().to_owned(),
            cache.images_dir().to_owned(),
            self.metadata(),
            cache.layer(&digest(), LayerFile::Tree),
        ]
    }
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root, to give files away");
    }
    is_root
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn refusal(outcome: Result<bool, ImageError>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), "ERR_CACHE", "{error:?}");
    error.to_string()
}

#[test]
fn a_hit_on_what_everybody_may_write_is_refused_and_says_what_to_do() {
    let fixture = Fixture::new();
    for path in fixture.believed() {
        let before = fs::metadata(&path).unwrap().permissions().mode();
        for mode in [0o777, 0o1777] {
            set_mode(&path, mode);
            let text = refusal(fixture.cached(&fixture.cache()));
            assert!(text.contains(&format!("at {}:", path.display())) && text.contains("owner "), "{text}");
            assert!(text.contains(&format!("mode {mode:04o}")) && text.contains("chmod o-w"), "{text}");
        }
        // A group is a choice of whoever owns it.
        set_mode(&path, before | 0o070);
        assert!(fixture.cached(&fixture.cache()).unwrap(), "{path:?}");
        set_mode(&path, before);
    }
    assert!(fixture.cached(&fixture.cache()).unwrap());
}

#[test]
fn a_pull_into_a_cache_that_everybody_may_write_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let fixture = Fixture::new();
    for name in ["", "layers", "images"] {
        let directory = temp.path().join(format!("cache-{name}"));
        fs::create_dir_all(directory.join(name)).unwrap();
        set_mode(&directory.join(name), 0o1777);
        refusal(fixture.pull(&GlobalCache::new(&directory)).map(|_| true));
        assert!(!directory.join("leases").exists());
    }
}

#[test]
fn what_a_stranger_owns_is_refused_unless_the_stranger_is_trusted() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let [root, rest @ ..] = fixture.believed();
    for path in rest {
        chown(&path, Some(STRANGER), None).unwrap();
        let text = refusal(fixture.cached(&fixture.cache()));
        assert!(text.contains(&path.display().to_string()) && text.contains(&format!("owner {STRANGER}")), "{text}");
        assert!(text.contains("belongs to another user") && text.contains("trustedOwners"), "{text}");
        assert!(fixture.cached(&fixture.cache().with_trusted_owners(&[STRANGER])).unwrap(), "{path:?}");
        // Root believes whoever owns the cache: a container uses its host's.
        chown(&root, Some(STRANGER), None).unwrap();
        assert!(fixture.cached(&fixture.cache()).unwrap(), "{path:?}");
        chown(&root, Some(0), None).unwrap();
        chown(&path, Some(0), None).unwrap();
    }
    // Images of somebody who is not trusted are not deleted either.
    chown(fixture.metadata(), Some(STRANGER), None).unwrap();
    assert_eq!(fixture.cache().prune(&PruneOptions::default()).unwrap_err().code(), "ERR_CACHE");
    assert!(fixture.metadata().exists());
}

#[test]
fn links_in_place_of_directories_are_refused() {
    let fixture = Fixture::new();
    for path in fixture.believed().into_iter().take(3) {
        let moved = path.with_extension("moved");
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        assert!(refusal(fixture.cached(&fixture.cache())).contains("a link there is not followed"));
        fs::remove_file(&path).unwrap();
        fs::rename(&moved, &path).unwrap();
    }
    let tree = fixture.cache().layer(&digest(), LayerFile::Tree);
    fs::rename(&tree, tree.with_extension("moved")).unwrap();
    symlink(tree.with_extension("moved"), &tree).unwrap();
    assert!(!fixture.cached(&fixture.cache()).unwrap(), "a link is no tree");
}

/// What can stand in place of a file and would block, or have an effect, where it is opened.
type Plant = (&'static str, fn(&Path));

fn planted() -> Vec<Plant> {
    let mode = Mode::from_raw_mode(0o600);
    let mut all: Vec<Plant> = vec![
        ("pipe", |path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap()),
        ("directory", |path| fs::create_dir_all(path.join("inside")).unwrap()),
        ("socket", |path| mknodat(CWD, path, FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap()),
    ];
    let temp = tempfile::tempdir().unwrap();
    if mknodat(CWD, temp.path().join("x"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 5)).is_ok() {
        all.push(("device", |path| {
            let mode = Mode::from_raw_mode(0o600);
            mknodat(CWD, path, FileType::CharacterDevice, mode, rustix::fs::makedev(1, 5)).unwrap();
        }));
    }
    all
}

fn clear(path: &Path) {
    if path.symlink_metadata().is_ok_and(|there| there.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Runs work that must not block.
fn in_time<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> T {
    let (done, waits) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || done.send(work()));
        match waits.recv_timeout(Duration::from_secs(30)) {
            Ok(answer) => answer,
            Err(error) => {
                // A thread that blocks can't be ended.
                println!("{what}: {error}");
                std::process::exit(1);
            }
        }
    })
}

#[test]
fn what_is_planted_as_metadata_is_damaged_and_never_blocks() {
    for (kind, plant) in planted() {
        let fixture = Fixture::new();
        let metadata = fixture.metadata();
        fs::remove_file(&metadata).unwrap();
        plant(&metadata);
        let cache = fixture.cache();
        in_time(kind, || {
            assert!(!fixture.cached(&cache).unwrap(), "{kind}");
            cache.record_use(&support::reference(&fixture.server.host), &support::amd64());
            assert_eq!(cache.images().unwrap().len(), 0);
            cache.usage().unwrap();
            let options = VerifyOptions { depth: Depth::Content, repair: false };
            let report = fixture.runtime.block_on(verify(&cache, options, CancellationToken::new())).unwrap();
            assert_eq!(report.problems.len(), 1, "{kind}: {report:?}");
            cache.prune(&PruneOptions::default()).unwrap();
            fixture.pull(&cache).unwrap();
            assert!(fixture.cached(&cache).unwrap(), "{kind}");
        });
    }
}

#[test]
fn metadata_longer_than_any_image_has_are_damaged() {
    let fixture = Fixture::new();
    fs::File::create(fixture.metadata()).unwrap().set_len(1 << 40).unwrap();
    assert!(!fixture.cached(&fixture.cache()).unwrap());
    assert_eq!(fixture.cache().images().unwrap().len(), 0);
}

#[test]
fn what_is_planted_as_a_file_of_a_layer_never_blocks() {
    for file in [LayerFile::Blob, LayerFile::Part, LayerFile::Index, LayerFile::ImplicitDirs] {
        for (kind, plant) in planted() {
            let fixture = Fixture::new();
            let cache = fixture.cache();
            let path = cache.layer(&digest(), file);
            if path.exists() {
                clear(&path);
            }
            plant(&path);
            in_time(&format!("{kind} as {file:?}"), || {
                for depth in [Depth::Marker, Depth::Size, Depth::Content] {
                    let options = VerifyOptions { depth, repair: false };
                    fixture.runtime.block_on(verify(&cache, options, CancellationToken::new())).unwrap();
                }
                cache.is_sound(&digest(), true);
                assert!(fixture.cached(&cache).unwrap(), "{kind} as {file:?}");
                // Without the tree all of it is looked at.
                clear(&cache.layer(&digest(), LayerFile::Tree));
                let pulled = fixture.pull(&cache);
                let may_fail = kind == "directory";
                assert!(may_fail || pulled.is_ok(), "{kind} as {file:?}: {pulled:?}");
            });
        }
    }
}

#[test]
fn what_is_planted_as_a_lock_is_refused_and_never_blocks() {
    for (kind, plant) in planted() {
        let fixture = Fixture::new();
        let cache = fixture.cache();
        clear(&cache.layer(&digest(), LayerFile::Tree));
        for file in [LayerFile::DownloadLock, LayerFile::Lock] {
            let path = cache.layer(&digest(), file);
            clear(&path);
            plant(&path);
            in_time(kind, || {
                assert_eq!(fixture.pull(&cache).unwrap_err().code(), "ERR_CACHE", "{kind}");
                cache.prune(&PruneOptions { dry_run: true, ..Default::default() }).unwrap();
            });
            clear(&path);
        }
        fixture.pull(&cache).unwrap();
    }
}

#[test]
fn metadata_are_written_by_many_at_once_while_others_sweep() {
    let fixture = Fixture::new();
    let (reference, cache) = (support::reference(&fixture.server.host), fixture.cache());
    let metadata = cache.lookup(&reference, &support::amd64()).unwrap().unwrap();
    let failures = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let write = || cache.write_image_metadata(&reference, &support::amd64(), &metadata).err();
                scope.spawn(move || (0..100).filter_map(|_| write()).collect::<Vec<_>>())
            })
            .collect();
        scope.spawn(|| {
            for _ in 0..40 {
                cache.prune(&PruneOptions::default()).unwrap();
            }
        });
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(failures.is_empty(), "{} of 400: {:?}", failures.len(), failures[0]);
    let unfinished = cache.images_dir().join(format!("{}.json.part", "a".repeat(64)));
    fs::write(&unfinished, "{").unwrap();
    cache.prune(&PruneOptions::default()).unwrap();
    let names: Vec<_> = fs::read_dir(cache.images_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("part")), "{names:?}");
}
