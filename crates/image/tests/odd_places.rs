//! Caches in odd places: names that are no text, two at once, and links planted in place of what is ours.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

#[path = "support/mod.rs"]
mod support;

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use microsandbox_image_core::{
    GlobalCache, ImageError, PullOptions, PullResult, Registry, Settings,
    progress::Unobserved,
    pull::verify,
    store::{Depth, LayerFile, VerifyOptions},
};
use support::{Server, Store};
use tokio_util::sync::CancellationToken;

fn layer() -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    made.append_data(&mut header, "etc/file", &b"hello"[..]).unwrap();
    made.into_inner().unwrap()
}

struct Fixture {
    server: Server,
    temp: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn new() -> Self {
        let store = Store::with_image(&[&layer()]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { server: Server::start(move |request| store.reply(request)), temp: tempfile::tempdir().unwrap(), runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    async fn pull(&self, cache: &Path) -> Result<PullResult, ImageError> {
        let cache = GlobalCache::new(cache);
        let registry = Registry::new(cache, support::amd64(), support::options(), Settings::default()).unwrap();
        let (reference, options) = (support::reference(&self.server.host), PullOptions::default());
        registry.pull(&reference, &options, Arc::new(Unobserved), CancellationToken::new()).await
    }

    fn pulls(&self, cache: &Path) -> Result<PullResult, ImageError> {
        self.runtime.block_on(self.pull(cache))
    }

    /// A directory that must stay as it is, with a file in it.
    fn victim(&self) -> PathBuf {
        let victim = self.path("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "theirs").unwrap();
        victim
    }
}

fn is_untouched(victim: &Path) -> bool {
    let names: Vec<_> = fs::read_dir(victim).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names == ["file"] && fs::read(victim.join("file")).unwrap() == b"theirs"
}

#[test]
fn a_path_with_spaces_and_bytes_that_are_no_text_serves() {
    let fixture = Fixture::new();
    let directory = fixture.temp.path().join(OsStr::from_bytes(b"a cache \xff\xfe with 'odd' bytes\n"));
    let result = fixture.pulls(&directory).unwrap();
    assert_eq!(fs::read(result.layers[0].join("etc/file")).unwrap(), b"hello");
    assert!(fixture.pulls(&directory).unwrap().cached, "the second time it is a hit");
    let cache = GlobalCache::new(&directory);
    let options = VerifyOptions { depth: Depth::Content, repair: true };
    let report = fixture.runtime.block_on(verify(&cache, options, CancellationToken::new())).unwrap();
    assert!(report.ok && report.layers == 1);
    assert_eq!(cache.images().unwrap().len(), 1);
    assert!(cache.usage().unwrap().bytes > 0);
    assert!(cache.remove(&support::reference(&fixture.server.host)).unwrap().found);
    assert!(!result.layers[0].exists());
}

#[test]
fn two_caches_in_one_process_know_nothing_of_each_other() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.path("one"), fixture.path("two"));
    let both = fixture.runtime.block_on(async { tokio::join!(fixture.pull(&one), fixture.pull(&two)) });
    let (first, second) = (both.0.unwrap(), both.1.unwrap());
    assert!(first.layers[0].starts_with(&one) && second.layers[0].starts_with(&two));
    let blob = first.layer_digests[0].to_string();
    assert_eq!(fixture.server.asked(&blob).len(), 2, "each fetched for itself");
    fs::remove_dir_all(&one).unwrap();
    assert!(fixture.pulls(&two).unwrap().cached);
}

#[test]
fn a_cache_on_another_file_system_than_the_temporary_directory_serves() {
    let fixture = Fixture::new();
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return println!("skipped: there is no /dev/shm") };
    let other = fs::metadata(elsewhere.path()).unwrap().dev() != fs::metadata(std::env::temp_dir()).unwrap().dev();
    if !other || microsandbox_image_core::layer::probe_host(elsewhere.path()).is_err() {
        return println!("skipped: /dev/shm is no other file system with user attributes");
    }
    let result = fixture.pulls(elsewhere.path()).unwrap();
    assert_eq!(fs::read(result.layers[0].join("etc/file")).unwrap(), b"hello");
}

#[test]
fn links_planted_in_place_of_a_layers_files_are_replaced_and_not_followed() {
    let fixture = Fixture::new();
    let victim = fixture.victim();
    let digest = support::images::sha256(&layer());
    for file in LayerFile::ALL {
        let directory = fixture.path(&format!("{file:?}"));
        let cache = GlobalCache::new(&directory);
        cache.prepare().unwrap();
        let path = cache.layer(&digest, file);
        let is_tree = matches!(file, LayerFile::Tree | LayerFile::Extracting);
        symlink(if is_tree { victim.clone() } else { victim.join("file") }, &path).unwrap();
        let pulled = fixture.pulls(&directory);
        assert!(is_untouched(&victim), "{file:?}");
        if matches!(file, LayerFile::Lock | LayerFile::DownloadLock) {
            assert_eq!(pulled.unwrap_err().code(), "ERR_CACHE", "{file:?}");
            continue;
        }
        let result = pulled.unwrap_or_else(|error| panic!("{file:?}: {error:?}"));
        assert_eq!(fs::read(result.layers[0].join("etc/file")).unwrap(), b"hello", "{file:?}");
        assert!(!path.symlink_metadata().is_ok_and(|there| there.is_symlink()), "{file:?}");
    }
}

#[test]
fn a_link_planted_in_place_of_a_directory_is_refused_also_by_a_hit() {
    let fixture = Fixture::new();
    for name in ["layers", "images"] {
        let directory = fixture.path(&format!("cache with {name} elsewhere"));
        fixture.pulls(&directory).unwrap();
        let elsewhere = fixture.path(&format!("real {name}"));
        fs::rename(directory.join(name), &elsewhere).unwrap();
        symlink(&elsewhere, directory.join(name)).unwrap();
        let error = fixture.pulls(&directory).unwrap_err();
        assert_eq!(error.code(), "ERR_CACHE", "{name}");
        assert!(error.to_string().contains("link"), "{error}");
    }
}
