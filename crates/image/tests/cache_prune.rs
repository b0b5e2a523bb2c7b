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
    store::{
        CachedImageMetadata, CachedLayerMetadata, Item, ItemKind, LayerFile, PruneOptions, Reason, Recovery, TreeFile,
        TreeName,
    },
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

/// The tree of a layer that is named so: `layer`, or `layer.key`.
fn tree(name: &str) -> TreeName {
    let (layer, key) = name.split_once('.').map_or((name, None), |(layer, key)| (layer, Some(key)));
    let inherited = key.map(|key| digest(key).hex()[..32].to_owned());
    TreeName { digest: digest(layer), inherited }
}

/// What a report calls it.
fn told(name: &str) -> String {
    let TreeName { digest, inherited } = tree(name);
    inherited.map_or(digest.to_string(), |key| format!("{digest}.{key}"))
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

    /// An image of layers, each by its name or as `name.key` where it has a tree that inherits.
    fn image(&self, name: &str, layers: &[&str], unused_for: Duration) {
        for layer in layers {
            match layer.split_once('.') {
                None if !self.has(layer) => self.layer(layer, 100_000),
                Some(_) => self.keyed_tree(layer, 100_000),
                None => {}
            }
        }
        let layer = |name: &&str| {
            let TreeName { digest, inherited } = tree(name);
            let (media_type, size_bytes, diff_id) = (None, Some(50_000), String::new());
            CachedLayerMetadata { digest, media_type, size_bytes, diff_id, inherited, no_index: false }
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

    fn keyed_tree(&self, name: &str, bytes: usize) {
        let place = |file| self.cache.tree(&tree(name), file);
        fs::create_dir_all(place(TreeFile::Tree)).unwrap();
        fs::write(place(TreeFile::Tree).join("content"), vec![1; bytes]).unwrap();
        fs::write(place(TreeFile::Tree).join(".complete"), "").unwrap();
        fs::write(place(TreeFile::Index), "index").unwrap();
        fs::write(place(TreeFile::List), "list").unwrap();
        let layer = name.split_once('.').unwrap().0;
        fs::write(self.path(layer, LayerFile::Blob), vec![2; bytes / 2]).unwrap();
        fs::write(self.path(layer, LayerFile::Table), "table").unwrap();
    }

    fn has(&self, name: &str) -> bool {
        self.cache.tree(&tree(name), TreeFile::Tree).join(".complete").exists()
    }

    /// All that has the layer's digest in its name.
    fn files(&self, layer: &str) -> Vec<String> {
        let start = digest(layer).to_string().replace(':', "_");
        let names = fs::read_dir(self.cache.layers_dir()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| Some(name.strip_prefix(&start)?.to_owned())).collect()
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
    assert_eq!(cache.files("own"), [] as [&str; 0]);
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

#[test]
fn all_trees_of_a_layer_are_measured_and_an_image_is_complete_with_its_own() {
    let cache = Fixture::new();
    cache.image("base", &["a"], HOUR);
    let before = cache.cache.usage().unwrap();
    cache.image("keyed", &["a.1"], 2 * HOUR);
    let after = cache.cache.usage().unwrap();
    assert!(after.tree_bytes >= before.tree_bytes + 100_000);
    // Its index, its list and the table.
    assert_eq!((after.index_bytes - before.index_bytes, after.layers - before.layers), (3 * 4096, 1));
    assert_eq!((after.unreferenced_bytes, after.foreign_bytes), (0, 0));
    cache.keyed_tree("a.2", 10_000);
    let scratch = cache
        .path("a", LayerFile::Blob)
        .to_str()
        .unwrap()
        .replace(".tar.gz", &format!(".{}.extracting", "0".repeat(32)));
    fs::create_dir(&scratch).unwrap();
    fs::write(Path::new(&scratch).join("file"), vec![1; 5000]).unwrap();
    let more = cache.cache.usage().unwrap();
    assert!(more.unreferenced_bytes >= 10_000 + 2 * 4096 && more.unreferenced_bytes < 100_000);
    assert!(more.leftover_bytes >= 5000 && more.foreign_bytes == 0);
    let parts = more.blob_bytes + more.tree_bytes + more.index_bytes + more.partial_bytes + more.leftover_bytes;
    assert_eq!(more.bytes, parts + more.metadata_bytes);
    let complete = || cache.cache.images().unwrap().iter().map(|image| image.complete).collect::<Vec<_>>();
    assert_eq!(complete(), [true, true]);
    fs::remove_dir_all(cache.cache.tree(&tree("a.1"), TreeFile::Tree)).unwrap();
    assert_eq!(complete(), [true, false]);
}

#[test]
fn a_tree_that_no_image_names_goes_though_its_layer_stays() {
    let cache = Fixture::new();
    cache.image("one", &["a", "b.1"], HOUR);
    cache.keyed_tree("a.1", 50_000);
    cache.layer("b", 1000);
    fs::write(cache.path("b", LayerFile::ImplicitDirs), "list").unwrap();
    fs::write(cache.cache.tree(&tree("b"), TreeFile::List), "list").unwrap();
    let dry = cache.cache.prune(&PruneOptions { dry_run: true, ..Default::default() }).unwrap();
    let report = cache.cache.prune(&PruneOptions::default()).unwrap();
    assert_eq!(dry.removed, report.removed);
    let mut names = names(&report.removed, ItemKind::Tree);
    names.sort();
    let mut expected = [told("a.1"), told("b")];
    expected.sort();
    assert_eq!(names, expected.each_ref().map(|name| (name.as_str(), Reason::Unreferenced)));
    assert!(report.removed.iter().all(|item| item.recovery == Recovery::Extract) && report.kept.is_empty());
    assert!(cache.has("a") && cache.has("b.1") && !cache.has("a.1") && !cache.has("b"));
    let mut left = cache.files("b");
    left.retain(|name| !name.ends_with("lock"));
    assert_eq!(left.len(), 5, "the tree, its index and list, the blob and the table: {left:?}");
    assert!(!cache.path("b", LayerFile::ImplicitDirs).exists() && !cache.path("b", LayerFile::Index).exists());
    assert!(!cache.cache.tree(&tree("b"), TreeFile::List).exists());
    assert_eq!(cache.cache.prune(&PruneOptions::default()).unwrap().removed, []);
}

#[test]
fn a_removed_image_takes_its_own_trees_of_layers_that_others_name() {
    let cache = Fixture::new();
    cache.image("one", &["a", "b.1"], HOUR);
    cache.image("two", &["a", "b.2"], HOUR);
    let report = cache.cache.remove(&reference("one")).unwrap();
    assert_eq!(names(&report.removed, ItemKind::Tree), [(told("b.1").as_str(), Reason::Unreferenced)]);
    assert_eq!(report.removed.len(), 2);
    assert!(cache.has("a") && cache.has("b.2") && !cache.has("b.1"));
    let report = cache.cache.remove(&reference("two")).unwrap();
    assert_eq!(names(&report.removed, ItemKind::Layer).len(), 2);
    assert_eq!((cache.files("a"), cache.files("b")), (Vec::new(), Vec::new()));
}

#[test]
fn a_removal_that_leaves_one_platform_in_use_leaves_its_layers() {
    let cache = Fixture::new();
    cache.image("one", &["a", "b.1"], HOUR);
    // The same reference for another platform, which is being pulled right now.
    let other = Platform { architecture: "riscv64".into(), ..Platform::host_linux() };
    let metadata = cache.cache.read_image_metadata(&reference("one"), &Platform::host_linux()).unwrap().unwrap();
    cache.cache.write_image_metadata(&reference("one"), &other, &metadata).unwrap();
    let _held = lock(&cache.cache.image_lock_path(&reference("one"), &other));
    let _lease = cache.cache.lease([&digest("nothing")]).unwrap();
    let report = cache.cache.remove(&reference("one")).unwrap();
    assert_eq!(report.removed.len(), 1);
    assert_eq!(
        report.kept.iter().map(|item| (item.kind, item.reason)).collect::<Vec<_>>(),
        [(ItemKind::Image, Reason::Locked)]
    );
    assert!(cache.has("a") && cache.has("b.1"));
}

#[test]
fn a_lease_keeps_all_trees_of_a_layer_and_those_being_made() {
    let cache = Fixture::new();
    cache.layer("a", 1000);
    cache.keyed_tree("a.1", 1000);
    let lease = cache.cache.lease([&digest("a")]).unwrap();
    let leases = fs::read_dir(cache.cache.directory().join("leases")).unwrap();
    let mut names = leases.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = names.find(|name| name != "gc.lock").unwrap();
    let layer = digest("a").to_string().replace(':', "_");
    let scratch = cache.cache.layers_dir().join(format!("{layer}.{name}.extracting"));
    fs::create_dir(&scratch).unwrap();
    let dead = cache.cache.layers_dir().join(format!("{layer}.{}.extracting", "5".repeat(32)));
    fs::create_dir(&dead).unwrap();
    let report = cache.cache.prune(&PruneOptions { max_bytes: Some(0), ..Default::default() }).unwrap();
    // That of a pull that has ended goes, though somebody leases its layer.
    assert_eq!(report.removed.iter().map(|item| item.kind).collect::<Vec<_>>(), [ItemKind::Leftover]);
    assert!(!dead.exists());
    assert!(
        report.kept.len() == 2 && report.kept.iter().all(|item| item.reason == Reason::Leased),
        "{:?}",
        report.kept
    );
    assert!(scratch.exists() && cache.has("a") && cache.has("a.1"));
    drop(lease);
    let report = cache.cache.prune(&PruneOptions::default()).unwrap();
    assert_eq!(
        report.removed.iter().map(|item| (item.kind, item.recovery)).collect::<Vec<_>>(),
        [(ItemKind::Leftover, Recovery::None), (ItemKind::Layer, Recovery::Download)]
    );
    assert_eq!(cache.files("a"), [] as [&str; 0]);
}

#[test]
fn blobs_stay_where_a_tree_that_an_image_names_is_missing() {
    let cache = Fixture::new();
    cache.image("one", &["a.1"], HOUR);
    cache.image("two", &["b"], HOUR);
    cache.layer("a", 1000);
    fs::remove_dir_all(cache.cache.tree(&tree("a.1"), TreeFile::Tree)).unwrap();
    let report = cache.cache.prune(&PruneOptions { blobs: true, ..Default::default() }).unwrap();
    assert_eq!(names(&report.removed, ItemKind::Blob), [(told("b").as_str(), Reason::Extracted)]);
    assert!(cache.path("a", LayerFile::Blob).exists() && !cache.path("b", LayerFile::Blob).exists());
}

#[test]
fn what_crashes_left_goes_for_the_size_before_any_image() {
    let cache = Fixture::new();
    cache.image("one", &["a"], 99 * HOUR);
    let most = cache.cache.usage().unwrap().bytes;
    fs::create_dir(cache.cache.layers_dir().join(".trash-1-1")).unwrap();
    fs::write(cache.cache.layers_dir().join(".trash-1-1/file"), vec![1; 300_000]).unwrap();
    let part = cache.path("half", LayerFile::Part);
    fs::write(&part, vec![1; 300_000]).unwrap();
    fs::File::open(&part).unwrap().set_modified(SystemTime::now() - 8 * 24 * HOUR).unwrap();
    let report = cache.cache.prune(&PruneOptions { max_bytes: Some(most), ..Default::default() }).unwrap();
    let kinds: Vec<_> = report.removed.iter().map(|item| item.kind).collect();
    assert_eq!(kinds, [ItemKind::Leftover, ItemKind::Partial]);
    assert!(cache.hit("one") && report.remaining_bytes <= most);
    // Nothing went that counts but what was told.
    assert!(cache.cache.usage().unwrap().bytes <= most);
}

#[test]
fn every_byte_is_accounted_for() {
    let cache = Fixture::new();
    cache.image("one", &["a", "b.1"], HOUR);
    cache.image("two", &["a", "b.2"], 2 * HOUR);
    cache.layer("orphan", 10_000);
    fs::write(cache.path("a", LayerFile::Part), vec![1; 20_000]).unwrap();
    fs::write(cache.cache.tree(&tree("a"), TreeFile::List), vec![1; 5000]).unwrap();
    let before = cache.cache.usage().unwrap().bytes;
    let options = PruneOptions { keep: Some(0), blobs: true, partials: Some(true), ..Default::default() };
    let report = cache.cache.prune(&options).unwrap();
    assert_eq!(report.freed_bytes, report.removed.iter().map(|item| item.bytes).sum::<u64>());
    assert_eq!(report.remaining_bytes, before - report.freed_bytes);
    assert_eq!(cache.cache.usage().unwrap().bytes, report.remaining_bytes);
}

/// A directory seen at another place, where nothing can be written, until it is dropped.
struct ReadOnly(tempfile::TempDir);

impl ReadOnly {
    fn of(directory: &Path) -> Option<Self> {
        let place = Self(tempfile::tempdir().unwrap());
        let done = |args: &[&str]| {
            let ran = std::process::Command::new("mount").args(args).arg(place.0.path()).output();
            ran.is_ok_and(|output| output.status.success())
        };
        (done(&["--bind", directory.to_str().unwrap()]) && done(&["-o", "remount,bind,ro"])).then_some(place)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "a skipped test says so")]
fn a_dry_run_works_on_a_read_only_cache_and_sees_who_is_at_work() {
    let cache = Fixture::new();
    cache.image("one", &["a", "b.1"], 9 * HOUR);
    cache.image("two", &["c"], HOUR);
    cache.layer("orphan", 1000);
    let lease = cache.cache.lease([&digest("c")]).unwrap();
    let _held = lock(&cache.path("orphan", LayerFile::Lock));
    let options = PruneOptions { keep: Some(0), dry_run: true, ..Default::default() };
    let expected = cache.cache.prune(&options).unwrap();
    let reasons: Vec<_> = expected.kept.iter().map(|item| item.reason).collect();
    assert_eq!(reasons, [Reason::Locked, Reason::Leased]);
    let Some(read_only) = ReadOnly::of(cache.cache.directory()) else {
        println!("skipped: a read-only mount needs root and mount(8)");
        return;
    };
    let same = GlobalCache::new(read_only.0.path());
    assert_eq!(same.prune(&options).unwrap(), expected);
    drop(lease);
}
