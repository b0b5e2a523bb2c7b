//! What goes from a cache and what stays: `remove`, `prune`, `usage` and `images`, black box.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use fs2::FileExt;
use microsandbox_image_core::{
    Digest, GlobalCache, ImageConfig, Platform, Reference,
    model::Algorithm,
    store::{CachedImageMetadata, CachedLayerMetadata, Item, ItemKind, LayerFile, PruneOptions, Reason},
};

struct Fixture {
    _temp: tempfile::TempDir,
    cache: GlobalCache,
}

const HOUR: Duration = Duration::from_secs(3600);

fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(&temp.path().join("cache"));
        cache.prepare().unwrap();
        Self { _temp: temp, cache }
    }

    fn path(&self, layer: &str, file: LayerFile) -> std::path::PathBuf {
        self.cache.layer(&digest(layer), file)
    }

    fn layer(&self, name: &str, bytes: usize) {
        let tree = self.path(name, LayerFile::Tree);
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/content"), vec![1; bytes]).unwrap();
        fs::write(tree.join(".complete"), "").unwrap();
        fs::write(self.path(name, LayerFile::Blob), vec![2; bytes / 2]).unwrap();
        fs::write(self.path(name, LayerFile::Index), "index").unwrap();
    }

    fn image(&self, name: &str, layers: &[&str], unused_for: Duration) {
        for layer in layers.iter().filter(|layer| !self.has(layer)) {
            self.layer(layer, 100_000);
        }
        let layer = |name: &&str| CachedLayerMetadata {
            digest: digest(name),
            media_type: None,
            size_bytes: Some(50_000),
            diff_id: String::new(),
            inherited: None,
            no_index: false,
        };
        let metadata = CachedImageMetadata {
            manifest_digest: digest(name),
            config_digest: digest(name),
            config: ImageConfig::default(),
            layers: layers.iter().map(layer).collect(),
            format_version: 2,
            reference: Some(reference(name).to_string()),
            platform: Some(Platform::host_linux()),
            index_digest: None,
            manifest_media_type: None,
            raw_manifest: None,
            raw_config: None,
            pulled_at_ms: Some(1),
            written: None,
            report: Default::default(),
        };
        let host = Platform::host_linux();
        self.cache.write_image_metadata(&reference(name), &host, &metadata).unwrap();
        let file = fs::File::open(self.cache.image_metadata_path(&reference(name), &host)).unwrap();
        file.set_modified(SystemTime::now() - unused_for).unwrap();
    }

    fn has(&self, layer: &str) -> bool {
        self.cache.is_extracted(&digest(layer))
    }

    fn hit(&self, name: &str) -> bool {
        self.cache.lookup(&reference(name), &Platform::host_linux()).unwrap().is_some()
    }
}

fn lock(path: &Path) -> fs::File {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    file.lock_exclusive().unwrap();
    file
}

fn names(items: &[Item], kind: ItemKind) -> Vec<(&str, Reason)> {
    items.iter().filter(|item| item.kind == kind).map(|item| (item.name.as_str(), item.reason)).collect()
}

#[test]
fn images_are_listed_with_the_one_used_last_first() {
    let cache = Fixture::new();
    cache.image("old", &["a", "b", "a"], 9 * HOUR);
    cache.image("new", &["a"], HOUR);
    fs::remove_dir_all(cache.path("b", LayerFile::Tree)).unwrap();
    fs::write(cache.cache.images_dir().join("damaged.json"), "{").unwrap();
    let images = cache.cache.images().unwrap();
    let told: Vec<_> =
        images.iter().map(|i| (i.reference.as_deref().unwrap(), i.complete, i.compressed_bytes)).collect();
    assert_eq!(
        told,
        [("docker.io/library/new:latest", true, Some(50_000)), ("docker.io/library/old:latest", false, Some(100_000))]
    );
}

#[test]
fn what_images_share_counts_once() {
    let cache = Fixture::new();
    cache.image("one", &["a"], HOUR);
    let one = cache.cache.usage().unwrap();
    cache.image("two", &["a"], HOUR);
    let two = cache.cache.usage().unwrap();
    assert_eq!((one.blob_bytes, one.tree_bytes, one.layers), (two.blob_bytes, two.tree_bytes, two.layers));
    assert!(one.tree_bytes >= 100_000 && one.blob_bytes >= 50_000 && one.blob_bytes < 100_000);
    assert_eq!((one.images, two.images, two.unreferenced_bytes), (1, 2, 0));
}

#[test]
fn a_cache_that_is_not_there_is_empty_and_stays_away() {
    let temp = tempfile::tempdir().unwrap();
    let cache = GlobalCache::new(&temp.path().join("none"));
    assert_eq!(cache.images().unwrap(), []);
    assert_eq!(cache.usage().unwrap().bytes, 0);
    assert!(!cache.remove(&reference("alpine")).unwrap().found);
    assert!(!cache.directory().exists());
}

#[test]
fn a_removed_image_takes_only_the_layers_nobody_else_names() {
    let cache = Fixture::new();
    cache.image("one", &["shared", "own"], HOUR);
    cache.image("two", &["shared"], HOUR);
    let report = cache.cache.remove(&reference("one")).unwrap();
    assert!(report.found && report.freed_bytes >= 150_000);
    assert_eq!(names(&report.removed, ItemKind::Layer), [(digest("own").to_string().as_str(), Reason::Unreferenced)]);
    assert!(cache.has("shared") && !cache.has("own") && cache.hit("two") && !cache.hit("one"));
    for file in LayerFile::ALL {
        assert!(!cache.path("own", file).exists(), "{file:?}");
    }
    assert!(!cache.cache.remove(&reference("one")).unwrap().found);
}

#[test]
fn without_bounds_no_image_goes_but_what_no_image_names() {
    let cache = Fixture::new();
    cache.image("one", &["a"], 9999 * HOUR);
    cache.layer("orphan", 1000);
    let layers = cache.cache.layers_dir().to_owned();
    fs::create_dir(layers.join(".trash-1-1")).unwrap();
    fs::write(layers.join(".trash-1-1/file"), "x").unwrap();
    fs::write(layers.join(".probe-1-1"), "").unwrap();
    fs::create_dir(cache.path("half", LayerFile::Extracting)).unwrap();
    fs::write(cache.path("half", LayerFile::Part), "recent").unwrap();
    fs::write(layers.join("somebody's file"), "x").unwrap();
    let report = cache.cache.prune(&PruneOptions::default()).unwrap();
    assert_eq!(names(&report.removed, ItemKind::Image), []);
    assert_eq!(names(&report.removed, ItemKind::Layer).len(), 1);
    assert_eq!(names(&report.removed, ItemKind::Leftover).len(), 3);
    assert!(cache.hit("one") && !cache.has("orphan"));
    let left: Vec<String> =
        fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with('.') || name.ends_with(".extracting")), "{left:?}");
    assert!(left.iter().any(|name| name.ends_with(".part")) && left.iter().any(|name| name == "somebody's file"));
}

#[test]
fn the_least_recently_used_go_first_until_it_fits() {
    let cache = Fixture::new();
    cache.image("old", &["a", "shared"], 30 * HOUR);
    cache.image("middle", &["b"], 20 * HOUR);
    cache.image("new", &["c", "shared"], 10 * HOUR);
    let most = cache.cache.usage().unwrap().bytes - 200_000;
    let max_bytes = Some(most);
    let dry = cache.cache.prune(&PruneOptions { max_bytes, dry_run: true, ..Default::default() }).unwrap();
    assert!(cache.hit("old") && dry.dry_run);
    let report = cache.cache.prune(&PruneOptions { max_bytes, ..Default::default() }).unwrap();
    assert_eq!(dry.removed, report.removed);
    assert_eq!(
        names(&report.removed, ItemKind::Image),
        [("docker.io/library/old:latest", Reason::OverBudget), ("docker.io/library/middle:latest", Reason::OverBudget)]
    );
    assert!(cache.hit("new") && !cache.has("a") && !cache.has("b"));
    let usage = cache.cache.usage().unwrap().bytes;
    assert!(usage <= most);
}

#[test]
fn kept_references_stay_and_the_unused_go() {
    let cache = Fixture::new();
    cache.image("old", &["a"], 30 * HOUR);
    cache.image("kept", &["b"], 40 * HOUR);
    cache.image("new", &["c"], HOUR);
    let options =
        PruneOptions { older_than: Some(2 * HOUR), keep_references: vec![reference("kept")], ..Default::default() };
    let report = cache.cache.prune(&options).unwrap();
    assert_eq!(names(&report.removed, ItemKind::Image), [("docker.io/library/old:latest", Reason::Unused)]);
    assert!(cache.hit("kept") && cache.hit("new"));
}

#[test]
fn blobs_and_partial_downloads_go_when_asked_for() {
    let cache = Fixture::new();
    cache.image("one", &["a"], HOUR);
    fs::write(cache.path("half", LayerFile::Part), "recent").unwrap();
    let held = lock(&cache.path("half", LayerFile::DownloadLock));
    let options = PruneOptions { blobs: true, partials: Some(true), ..Default::default() };
    let report = cache.cache.prune(&options).unwrap();
    assert_eq!(names(&report.removed, ItemKind::Blob).len(), 1);
    assert_eq!(names(&report.kept, ItemKind::Partial), [(digest("half").to_string().as_str(), Reason::Locked)]);
    assert!(cache.hit("one") && !cache.path("a", LayerFile::Blob).exists());
    drop(held);
    assert_eq!(names(&cache.cache.prune(&options).unwrap().removed, ItemKind::Partial).len(), 1);
}

#[test]
fn what_is_locked_or_leased_stays() {
    let cache = Fixture::new();
    cache.layer("locked", 1000);
    cache.layer("leased", 1000);
    cache.image("leased-image", &["base"], 99 * HOUR);
    let held = lock(&cache.path("locked", LayerFile::Lock));
    let lease = cache.cache.lease([&digest("leased"), &digest("base")]).unwrap();
    let options = PruneOptions { keep: Some(0), ..Default::default() };
    let report = cache.cache.prune(&options).unwrap();
    assert_eq!(report.removed, []);
    let mut kept = names(&report.kept, ItemKind::Layer);
    kept.sort_by_key(|(_, reason)| *reason);
    assert_eq!(kept.iter().map(|(_, reason)| *reason).collect::<Vec<_>>(), [Reason::Locked, Reason::Leased]);
    let images = names(&report.kept, ItemKind::Image);
    assert_eq!(images, [("docker.io/library/leased-image:latest", Reason::Leased)]);
    assert!(cache.has("locked") && cache.has("leased") && cache.hit("leased-image"));
    drop((held, lease));
    cache.cache.prune(&options).unwrap();
    assert!(!cache.has("locked") && !cache.has("leased") && !cache.hit("leased-image"));
}

#[test]
fn while_a_foreign_pull_is_under_way_no_layer_goes() {
    let cache = Fixture::new();
    cache.layer("finished, not yet named", 1000);
    // The original holds this lock for the whole of a pull and says nothing of what it needs.
    let held = lock(&cache.cache.image_lock_path(&reference("pulled"), &Platform::host_linux()));
    let report = cache.cache.prune(&PruneOptions::default()).unwrap();
    assert_eq!(report.kept.iter().map(|item| item.reason).collect::<Vec<_>>(), [Reason::PullUnderWay]);
    assert!(cache.has("finished, not yet named"));
    drop(held);
    cache.cache.prune(&PruneOptions::default()).unwrap();
    assert!(!cache.has("finished, not yet named"));
}

#[test]
fn an_image_that_is_being_pulled_stays_and_is_told_where_it_should_go() {
    let cache = Fixture::new();
    cache.image("pulled", &["a"], 99 * HOUR);
    let held = lock(&cache.cache.image_lock_path(&reference("pulled"), &Platform::host_linux()));
    let told = |options: PruneOptions| {
        let report = cache.cache.prune(&PruneOptions { dry_run: true, ..options.clone() }).unwrap();
        let really = cache.cache.prune(&options).unwrap();
        assert_eq!((&report.kept, &report.removed), (&really.kept, &really.removed));
        names(&report.kept, ItemKind::Image).iter().map(|(_, reason)| *reason).collect::<Vec<_>>()
    };
    assert_eq!(told(PruneOptions::default()), []);
    assert_eq!(told(PruneOptions { keep: Some(1), ..Default::default() }), []);
    assert_eq!(told(PruneOptions { keep: Some(0), ..Default::default() }), [Reason::Locked]);
    assert_eq!(told(PruneOptions { older_than: Some(HOUR), ..Default::default() }), [Reason::Locked]);
    assert_eq!(told(PruneOptions { max_bytes: Some(0), ..Default::default() }), [Reason::Locked]);
    assert!(cache.hit("pulled"));
    drop(held);
    cache.cache.prune(&PruneOptions { keep: Some(0), ..Default::default() }).unwrap();
    assert!(!cache.hit("pulled"));
}

#[test]
fn last_use_is_known_to_the_hour() {
    let cache = Fixture::new();
    cache.image("one", &["a"], 5 * HOUR);
    let before = cache.cache.images().unwrap()[0].last_used_at;
    cache.cache.record_use(&reference("one"), &Platform::host_linux());
    let after = cache.cache.images().unwrap()[0].last_used_at;
    assert!(after - before >= 4 * 3_600_000, "{before} {after}");
    cache.cache.record_use(&reference("one"), &Platform::host_linux());
    assert_eq!(cache.cache.images().unwrap()[0].last_used_at, after);
}

#[test]
fn a_directory_planted_in_place_of_a_file_does_not_stop_anything() {
    let cache = Fixture::new();
    fs::create_dir_all(cache.path("odd", LayerFile::Index).join("inside")).unwrap();
    let victim = cache.cache.directory().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "x").unwrap();
    std::os::unix::fs::symlink(&victim, cache.path("odd", LayerFile::Tree)).unwrap();
    cache.cache.prune(&PruneOptions::default()).unwrap();
    assert!(cache.path("odd", LayerFile::Tree).symlink_metadata().is_err() && victim.join("file").exists());
    assert!(!cache.path("odd", LayerFile::Index).exists());
}
