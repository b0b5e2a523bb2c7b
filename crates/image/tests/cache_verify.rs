//! Damage of every kind: found, mended, and no harm to what is whole.

use std::{
    fs,
    io::{Seek, Write},
    os::unix::fs::symlink,
    path::PathBuf,
};

use microsandbox_image_core::{
    Digest, GlobalCache, ImageConfig, Platform, Reference,
    layer::OverrideStat,
    model::Algorithm,
    pull::verify,
    store::{
        CachedImageMetadata, CachedLayerMetadata, Depth, LayerFile, ProblemKind, Repair, SkipReason, TreeFile,
        TreeName, VerifyOptions, VerifyReport,
    },
};
use tokio_util::sync::CancellationToken;

/// A cache with two images that share a layer; `a` is the one that gets damaged.
struct Fixture {
    _temp: tempfile::TempDir,
    cache: GlobalCache,
    a: Digest,
    b: Digest,
}

fn archive(content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in [("etc/motd", content), ("etc/deep/er/file", "hello"), ("opt/.wh.gone", "")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The list of what the layers' base trees inherit: directories that no entry describes, of root and 0755.
fn inherited() -> Vec<u8> {
    let mut list = b"MSBh\x01\0\0\0".to_vec();
    for path in ["etc", "etc/deep", "etc/deep/er", "opt"] {
        list.push(1);
        list.extend((path.len() as u32).to_le_bytes());
        list.extend(path.as_bytes());
        list.extend(OverrideStat { uid: 0, gid: 0, mode: 0o040_755, rdev: 0 }.to_bytes());
    }
    list
}

fn run(cache: &GlobalCache, depth: Depth, repair: bool) -> VerifyReport {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(verify(cache, VerifyOptions { depth, repair }, CancellationToken::new())).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(&temp.path().join("cache"));
        cache.prepare().unwrap();
        let digests = ["one", "two"].map(|content| {
            let blob = archive(content);
            let digest = Digest::of(Algorithm::Sha256, &blob);
            fs::write(cache.layer(&digest, LayerFile::Blob), &blob).unwrap();
            fs::write(cache.tree(&TreeName::base(&digest), TreeFile::List), inherited()).unwrap();
            digest
        });
        let [a, b] = digests;
        let fixture = Self { _temp: temp, cache, a, b };
        fixture.image("both", &[&fixture.a, &fixture.b]);
        fixture.image("only-b", &[&fixture.b]);
        let report = run(&fixture.cache, Depth::Marker, true);
        assert_eq!(kinds(&report), [(ProblemKind::MissingLayer, Some(Repair::Extracted)); 2]);
        assert!(fixture.hit("both") && fixture.hit("only-b"));
        fixture
    }

    fn image(&self, name: &str, layers: &[&Digest]) {
        let layer = |digest: &&Digest| CachedLayerMetadata {
            digest: (*digest).clone(),
            media_type: None,
            size_bytes: Some(fs::metadata(self.cache.layer(digest, LayerFile::Blob)).unwrap().len()),
            diff_id: digest.to_string(),
            inherited: None,
            no_index: false,
        };
        let manifest = serde_json::json!({
            "layers": layers.iter().map(|digest| serde_json::json!({ "digest": digest.to_string() })).collect::<Vec<_>>()
        })
        .to_string();
        let metadata = CachedImageMetadata {
            manifest_digest: Digest::of(Algorithm::Sha256, manifest.as_bytes()),
            config_digest: Digest::of(Algorithm::Sha256, b"{}"),
            config: ImageConfig::default(),
            layers: layers.iter().map(layer).collect(),
            format_version: 2,
            reference: Some(Reference::parse(name).unwrap().to_string()),
            platform: Some(Platform::host_linux()),
            index_digest: None,
            manifest_media_type: None,
            raw_manifest: Some(manifest),
            raw_config: Some("{}".into()),
            pulled_at_ms: Some(1),
            written: None,
            report: Default::default(),
        };
        self.cache.write_image_metadata(&Reference::parse(name).unwrap(), &Platform::host_linux(), &metadata).unwrap();
    }

    fn metadata_path(&self, name: &str) -> PathBuf {
        self.cache.image_metadata_path(&Reference::parse(name).unwrap(), &Platform::host_linux())
    }

    fn hit(&self, name: &str) -> bool {
        self.cache.lookup(&Reference::parse(name).unwrap(), &Platform::host_linux()).unwrap().is_some()
    }

    fn path(&self, file: LayerFile) -> PathBuf {
        self.cache.layer(&self.a, file)
    }

    fn file(&self, path: &str) -> PathBuf {
        self.path(LayerFile::Tree).join(path)
    }

    /// Found at `depth` and at no lower one, changed by looking at it never, mended as expected, and gone afterwards.
    fn damaged(&self, depth: Depth, expected: &[(ProblemKind, Repair)]) {
        for lower in [Depth::Marker, Depth::Size].into_iter().filter(|&lower| lower < depth) {
            assert!(run(&self.cache, lower, false).ok, "{lower:?} finds what only {depth:?} should");
        }
        let found = run(&self.cache, depth, false);
        assert!(!found.ok);
        assert_eq!(kinds(&found), expected.iter().map(|(kind, _)| (*kind, None)).collect::<Vec<_>>(), "{found:?}");
        let mended = run(&self.cache, depth, true);
        assert!(mended.ok);
        assert_eq!(kinds(&mended), expected.iter().map(|(kind, done)| (*kind, Some(*done))).collect::<Vec<_>>());
        let after = run(&self.cache, Depth::Content, false);
        assert_eq!(after.problems, [], "{depth:?}");
        assert!(self.hit("only-b"), "an image that was whole is usable");
        if expected.iter().all(|(kind, done)| *done == Repair::Extracted || *kind == ProblemKind::DamagedBlob) {
            assert!(self.hit("both"));
            assert_eq!(fs::read_to_string(self.file("etc/motd")).unwrap(), "one");
        }
    }
}

fn kinds(report: &VerifyReport) -> Vec<(ProblemKind, Option<Repair>)> {
    report.problems.iter().map(|problem| (problem.kind, problem.repaired)).collect()
}

use ProblemKind::{
    DamagedBlob, DamagedIndex, DamagedList, DamagedMetadata, ExtraFile, ForeignTree, MissingFile, MissingLayer,
    MissingMarker, OrphanIndex, WrongFile, WrongMetadata,
};
use Repair::{Deleted, Extracted};

#[test]
fn a_whole_cache_has_no_problem_at_any_depth() {
    let fixture = Fixture::new();
    for depth in [Depth::Marker, Depth::Size, Depth::Content] {
        let report = run(&fixture.cache, depth, false);
        assert!(report.ok && report.problems.is_empty() && report.skipped.is_empty(), "{report:?}");
        assert_eq!((report.images, report.layers), (2, 2));
    }
}

#[test]
fn a_bit_flip_in_a_blob_costs_the_blob_and_not_the_tree() {
    let fixture = Fixture::new();
    let path = fixture.path(LayerFile::Blob);
    let mut bytes = fs::read(&path).unwrap();
    bytes[700] ^= 1;
    fs::write(&path, bytes).unwrap();
    fixture.damaged(Depth::Content, &[(DamagedBlob, Deleted)]);
}

#[test]
fn a_blob_cut_short_is_found_by_its_length() {
    let fixture = Fixture::new();
    fs::OpenOptions::new().write(true).open(fixture.path(LayerFile::Blob)).unwrap().set_len(100).unwrap();
    fixture.damaged(Depth::Size, &[(DamagedBlob, Deleted)]);
}

#[test]
fn a_file_cut_short_is_found_by_the_index() {
    let fixture = Fixture::new();
    fs::OpenOptions::new().write(true).open(fixture.file("etc/motd")).unwrap().set_len(1).unwrap();
    fixture.damaged(Depth::Size, &[(WrongFile, Extracted)]);
}

#[test]
fn a_bit_flip_in_a_file_is_found_by_comparing_with_the_blob() {
    let fixture = Fixture::new();
    let mut file = fs::OpenOptions::new().write(true).open(fixture.file("etc/motd")).unwrap();
    file.rewind().unwrap();
    file.write_all(b"O").unwrap();
    fixture.damaged(Depth::Content, &[(WrongFile, Extracted)]);
}

#[test]
fn another_owner_is_found_by_comparing_with_the_blob() {
    let fixture = Fixture::new();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(fixture.file("etc/motd"), "user.containers.override_stat", &[1; 20], flags).unwrap();
    fixture.damaged(Depth::Content, &[(WrongFile, Extracted)]);
}

#[test]
fn missing_files_directories_and_whiteouts_are_found() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.file("etc/motd")).unwrap();
    fs::remove_file(fixture.file("opt/.wh.gone")).unwrap();
    fs::remove_dir_all(fixture.file("etc/deep")).unwrap();
    fixture.damaged(Depth::Size, &[(MissingFile, Extracted), (MissingFile, Extracted), (MissingFile, Extracted)]);
}

#[test]
fn a_file_too_many_is_found() {
    let fixture = Fixture::new();
    fs::write(fixture.file("etc/extra"), "").unwrap();
    fixture.damaged(Depth::Size, &[(ExtraFile, Extracted)]);
}

#[test]
fn a_tree_without_marker_is_made_again() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.file(".complete")).unwrap();
    fixture.damaged(Depth::Marker, &[(MissingMarker, Extracted)]);
}

#[test]
fn something_else_in_place_of_a_tree_is_replaced_and_not_followed() {
    let fixture = Fixture::new();
    let victim = fixture.cache.directory().join("victim");
    fs::rename(fixture.path(LayerFile::Tree), &victim).unwrap();
    symlink(&victim, fixture.path(LayerFile::Tree)).unwrap();
    fixture.damaged(Depth::Marker, &[(ForeignTree, Extracted)]);
    assert!(victim.join("etc/motd").exists());
}

#[test]
fn a_foreign_directory_in_place_of_a_tree_is_replaced_with_or_without_a_marker() {
    let fixture = Fixture::new();
    let foreign = |marker: bool| {
        fs::remove_dir_all(fixture.path(LayerFile::Tree)).unwrap();
        fs::create_dir_all(fixture.file("somebody/elses")).unwrap();
        fs::write(fixture.file("somebody/elses/file"), "not the image's").unwrap();
        if marker {
            fs::write(fixture.file(".complete"), "").unwrap();
        }
    };
    foreign(false);
    assert!(!fixture.hit("both"));
    fixture.damaged(Depth::Marker, &[(MissingMarker, Extracted)]);
    // With a marker the index tells: what it lists is missing, what is there it does not list.
    foreign(true);
    fixture.damaged(Depth::Size, &[(MissingFile, Extracted), (MissingFile, Extracted), (ExtraFile, Extracted)]);
    assert!(!fixture.file("somebody").exists());
}

#[test]
fn a_foreign_file_in_place_of_a_tree_or_a_directory_in_place_of_a_blob_is_replaced() {
    let fixture = Fixture::new();
    fs::remove_dir_all(fixture.path(LayerFile::Tree)).unwrap();
    fs::write(fixture.path(LayerFile::Tree), "a file").unwrap();
    fixture.damaged(Depth::Marker, &[(ForeignTree, Extracted)]);
    fs::remove_file(fixture.path(LayerFile::Blob)).unwrap();
    fs::create_dir(fixture.path(LayerFile::Blob)).unwrap();
    fixture.damaged(Depth::Marker, &[(DamagedBlob, Deleted)]);
}

#[test]
fn an_index_without_its_tree_is_removed_and_the_tree_made_again() {
    let fixture = Fixture::new();
    fs::remove_dir_all(fixture.path(LayerFile::Tree)).unwrap();
    fixture.damaged(Depth::Marker, &[(MissingLayer, Extracted), (OrphanIndex, Extracted)]);
}

#[test]
fn a_damaged_index_or_list_is_made_again() {
    let fixture = Fixture::new();
    let path = fixture.path(LayerFile::Index);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    fixture.damaged(Depth::Size, &[(DamagedIndex, Extracted)]);
    fs::write(fixture.cache.tree(&TreeName::base(&fixture.a), TreeFile::List), b"\x09\0").unwrap();
    fixture.damaged(Depth::Size, &[(DamagedList, Extracted)]);
}

#[test]
fn a_damaged_tree_without_blob_is_removed_with_the_images_that_need_it() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.path(LayerFile::Blob)).unwrap();
    fs::remove_file(fixture.file("etc/motd")).unwrap();
    fixture.damaged(Depth::Size, &[(MissingFile, Deleted)]);
    assert!(!fixture.hit("both") && !fixture.path(LayerFile::Tree).exists());
    assert!(!fixture.path(LayerFile::Index).exists());
}

#[test]
fn metadata_that_name_a_layer_nobody_has_go() {
    let fixture = Fixture::new();
    for file in LayerFile::ALL {
        let path = fixture.path(file);
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    fixture.damaged(Depth::Marker, &[(MissingLayer, Deleted)]);
    assert!(!fixture.metadata_path("both").exists());
}

#[test]
fn metadata_that_can_not_be_read_or_contradict_themselves_go() {
    let fixture = Fixture::new();
    fs::write(fixture.metadata_path("torn"), "{\"manifest_digest\":").unwrap();
    fixture.damaged(Depth::Marker, &[(DamagedMetadata, Deleted)]);
    // The metadata of an image whose layers were exchanged: all is there, and it is another image.
    let path = fixture.metadata_path("both");
    let mut metadata: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let layers = metadata["layers"].as_array_mut().unwrap();
    layers.reverse();
    fs::write(&path, metadata.to_string()).unwrap();
    fixture.damaged(Depth::Marker, &[(WrongMetadata, Deleted)]);
}

#[test]
fn a_layer_that_somebody_works_on_is_left_alone() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.file(".complete")).unwrap();
    let lock = fs::OpenOptions::new().write(true).open(fixture.path(LayerFile::Lock)).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    let report = run(&fixture.cache, Depth::Content, true);
    assert_eq!(report.problems, []);
    assert_eq!(report.skipped.iter().map(|skipped| skipped.reason).collect::<Vec<_>>(), [SkipReason::Locked]);
}

#[test]
fn without_blob_or_index_it_says_what_could_not_be_looked_at() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.path(LayerFile::Index)).unwrap();
    let report = run(&fixture.cache, Depth::Size, false);
    assert!(report.ok);
    assert_eq!(report.skipped.iter().map(|skipped| skipped.reason).collect::<Vec<_>>(), [SkipReason::NoIndex]);
    fs::remove_file(fixture.path(LayerFile::Blob)).unwrap();
    let report = run(&fixture.cache, Depth::Content, false);
    assert_eq!(report.skipped.iter().map(|skipped| skipped.reason).collect::<Vec<_>>(), [SkipReason::NoBlob]);
}

#[test]
fn a_copied_cache_is_looked_through_by_names() {
    let fixture = Fixture::new();
    let copy = fixture.cache.directory().with_file_name("copy");
    let status = std::process::Command::new("cp").arg("-a").args([fixture.cache.directory(), &copy]).status().unwrap();
    assert!(status.success());
    let cache = GlobalCache::new(&copy);
    let report = run(&cache, Depth::Size, false);
    assert!(report.ok, "{report:?}");
    assert!(report.skipped.iter().all(|skipped| skipped.reason == SkipReason::ForeignIndex));
    fs::remove_file(cache.layer(&fixture.a, LayerFile::Tree).join("etc/motd")).unwrap();
    assert_eq!(kinds(&run(&cache, Depth::Size, false)), [(MissingFile, None)]);
}

#[test]
fn only_a_whole_tree_is_sound() {
    let fixture = Fixture::new();
    assert!(fixture.cache.is_sound(&fixture.a, true));
    fs::OpenOptions::new().write(true).open(fixture.file("etc/motd")).unwrap().set_len(1).unwrap();
    assert!(!fixture.cache.is_sound(&fixture.a, false) && fixture.cache.is_sound(&fixture.b, true));
    fs::remove_file(fixture.cache.layer(&fixture.b, LayerFile::Index)).unwrap();
    assert!(!fixture.cache.is_sound(&fixture.b, true) && fixture.cache.is_sound(&fixture.b, false));
    fs::write(fixture.cache.tree(&TreeName::base(&fixture.b), TreeFile::List), b"\x09\0").unwrap();
    assert!(!fixture.cache.is_sound(&fixture.b, false));
}

#[test]
fn an_abort_ends_it() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let options = VerifyOptions { depth: Depth::Content, repair: true };
    let error = runtime.block_on(verify(&fixture.cache, options, cancel)).unwrap_err();
    assert_eq!(error.code(), "ERR_ABORTED");
}
