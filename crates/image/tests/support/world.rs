//! A registry whose images can be changed, a cache, and looks at the trees in it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use microsandbox_image_core::{
    Digest, GlobalCache, ImageError, PullOptions, PullResult, Reference, Registry, Settings,
    layer::{OverrideStat, read_stat},
    progress::Unobserved,
    pull::verify,
    store::{Depth, LayerFile, VerifyOptions, VerifyReport},
};
use tokio_util::sync::CancellationToken;

use super::{Server, Store, amd64, images, options};

pub enum Member<'a> {
    Dir(&'a str, u64, u32),
    File(&'a str, &'a str, u64, u32),
    Link(&'a str, &'a str),
    Symlink(&'a str, &'a str),
}
pub use Member::{Dir, File, Link, Symlink};

pub fn describe(header: &mut tar::Header, owner: u64, mode: u32) {
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mode(mode);
}

/// A layer of these entries. All have one time, so that nothing tells their files apart but the bytes.
pub fn layer(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        match *member {
            Dir(path, uid, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                describe(&mut header, uid, mode);
                archive.append_data(&mut header, path, &b""[..]).unwrap();
            }
            File(path, content, uid, mode) => {
                header.set_size(content.len() as u64);
                describe(&mut header, uid, mode);
                archive.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
            Link(path, target) | Symlink(path, target) => {
                let is_hard = matches!(member, Link(..));
                header.set_entry_type(if is_hard { tar::EntryType::Link } else { tar::EntryType::Symlink });
                describe(&mut header, 0, 0o777);
                archive.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    archive.into_inner().unwrap()
}

/// A registry whose images can be changed, and a cache.
pub struct World {
    _temp: tempfile::TempDir,
    pub store: Arc<Mutex<Store>>,
    pub server: Server,
    pub cache: GlobalCache,
    pub registry: Registry,
    pub runtime: tokio::runtime::Runtime,
}

impl World {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = Arc::new(Mutex::new(Store::default()));
        let served = Arc::clone(&store);
        let server = Server::start(move |request| served.lock().unwrap().reply(request));
        let cache = GlobalCache::new(&temp.path().join("cache"));
        let settings = Settings { lock_timeout: Some(Duration::from_secs(60)), ..Settings::default() };
        let registry = Registry::new(cache.clone(), amd64(), options(), settings).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { _temp: temp, store, server, cache, registry, runtime }
    }

    pub fn serve(&self, tag: &str, layers: &[&[u8]]) {
        let mut store = self.store.lock().unwrap();
        let manifest = store.image("linux/amd64", layers);
        store.tag(tag, images::OCI_MANIFEST, &manifest);
    }

    /// Serves an image as [`serve`](Self::serve), with a text of its config and one of its manifest changed.
    pub fn serve_a_lie(&self, tag: &str, layers: &[&[u8]], config: (&str, &str), manifest: (&str, &str)) {
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!(r#""{}""#, images::sha256(layer))).collect();
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let config = text.replace(config.0, config.1);
        let described: Vec<_> = layers.iter().map(|layer| images::descriptor(images::OCI_LAYER, layer, "")).collect();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            images::OCI_MANIFEST,
            images::descriptor(images::OCI_CONFIG, config.as_bytes(), ""),
            described.join(",")
        );
        let manifest = text.replace(manifest.0, manifest.1);
        let mut store = self.store.lock().unwrap();
        store.blob(config.as_bytes());
        layers.iter().for_each(|layer| store.blob(layer));
        store.tag(tag, images::OCI_MANIFEST, manifest.as_bytes());
    }

    pub fn reference(&self, tag: &str) -> Reference {
        Reference::parse(&format!("{}/team/app:{tag}", self.server.host)).unwrap()
    }

    pub fn try_pull(&self, tag: &str) -> Result<PullResult, ImageError> {
        self.try_pull_with(tag, &PullOptions::default())
    }

    pub fn try_pull_with(&self, tag: &str, options: &PullOptions) -> Result<PullResult, ImageError> {
        let reference = self.reference(tag);
        let pull = self.registry.pull(&reference, options, Arc::new(Unobserved), CancellationToken::new());
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), pull).await }).expect("it hangs")
    }

    pub fn pull(&self, tag: &str) -> PullResult {
        self.try_pull(tag).unwrap_or_else(|error| panic!("{tag}: {error}"))
    }

    /// What the cache alone answers, which must be what the pull answered.
    pub fn cached(&self, tag: &str, pulled: &PullResult) {
        let cached = self.registry.pull_cached(&self.reference(tag), None).unwrap();
        let cached = cached.unwrap_or_else(|| panic!("{tag} is not cached whole"));
        assert_eq!(cached.layers, pulled.layers, "{tag}");
    }

    pub fn verify(&self) -> VerifyReport {
        let options = VerifyOptions { depth: Depth::Content, repair: false };
        self.runtime.block_on(verify(&self.cache, options, CancellationToken::new())).unwrap()
    }

    pub fn is_healthy(&self) {
        let report = self.verify();
        assert!(report.ok && report.problems.is_empty(), "{:?}", report.problems);
    }

    /// Names in the folder of layers that begin with a layer's digest and may be trusted, without the digest.
    pub fn final_names(&self, digest: &Digest) -> Vec<String> {
        let folder = self.cache.layer(digest, LayerFile::Tree).parent().unwrap().to_owned();
        let prefix = digest.to_path_safe();
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect()
    }
}

pub fn stat(path: &Path) -> OverrideStat {
    read_stat(path).unwrap().unwrap_or_else(|| panic!("{} has no attribute", path.display()))
}

/// Owner and permissions that a tree says.
pub fn says(tree: &Path, path: &str) -> (u32, u32) {
    let stat = stat(&tree.join(path));
    (stat.uid, stat.mode & 0o7777)
}

/// Inode, size, time, bytes, attribute.
pub type Facts = (u64, u64, i64, Vec<u8>, Option<OverrideStat>);

/// All that a tree is, by path.
pub fn snapshot(tree: &Path) -> BTreeMap<PathBuf, Facts> {
    let (mut all, mut pending) = (BTreeMap::new(), vec![tree.to_owned()]);
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let stat = read_stat(&path).unwrap();
        let size = if meta.is_file() { meta.len() } else { 0 };
        all.insert(path, (meta.ino(), size, meta.mtime(), bytes, stat));
    }
    all
}

pub fn unchanged(what: &str, trees: &[PathBuf], before: &[BTreeMap<PathBuf, Facts>]) {
    for (tree, before) in trees.iter().zip(before) {
        assert!(snapshot(tree) == *before, "{what} changed {}", tree.display());
    }
}
