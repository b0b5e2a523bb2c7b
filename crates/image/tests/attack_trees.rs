//! Attacks on what a cache promises of its trees (SPEC §8): nothing published changes, nothing planted is believed, and
//! what is mended is mended from what is right.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::PathBuf,
};

use microsandbox_image_core::{
    PullOptions, PullPolicy, PullResult,
    pull::verify,
    store::{Depth, LayerFile, VerifyOptions, VerifyReport},
};
use support::{
    images,
    world::{Dir, File, Link, Symlink, World, layer, says, snapshot, unchanged},
};
use tokio_util::sync::CancellationToken;

/// Nobody on this machine.
const STRANGER: u32 = 54_321;

fn always() -> PullOptions {
    PullOptions { policy: PullPolicy::Always, ..PullOptions::default() }
}

fn without_index() -> PullOptions {
    PullOptions { index: false, ..PullOptions::default() }
}

fn repair(world: &World) -> VerifyReport {
    let options = VerifyOptions { depth: Depth::Content, repair: true };
    world.runtime.block_on(verify(&world.cache, options, CancellationToken::new())).unwrap()
}

/// What stands beside a tree under the same name.
fn beside(tree: &std::path::Path, suffix: &str) -> PathBuf {
    PathBuf::from(tree.to_str().unwrap().replace(".extracted", suffix))
}

fn base(content: &str) -> Vec<u8> {
    layer(&[Dir("bin", 0, 0o755), File("bin/base-tool", content, 0, 0o755), Dir("home", 5, 0o700)])
}

fn upper(seed: &str) -> Vec<u8> {
    layer(&[Link("bin/tool", "bin/base-tool"), File("home/data", seed, 0, 0o644)])
}

#[test]
fn a_link_may_lead_through_a_link_of_a_lower_layer_to_a_file_of_its_own_layer() {
    let world = World::new();
    let lower = layer(&[Dir("usr", 0, 0o755), Dir("usr/lib", 0, 0o755), Symlink("lib", "usr/lib")]);
    for (tag, top) in [
        ("before", layer(&[File("usr/lib/x", "own", 3, 0o640), Link("copy", "lib/x")])),
        ("after", layer(&[Link("copy", "lib/x"), File("usr/lib/x", "own!", 3, 0o640)])),
    ] {
        world.serve(tag, &[&lower, &top]);
        let pulled = world.pull(tag);
        assert!(fs::read_to_string(pulled.layers[1].join("copy")).unwrap().starts_with("own"));
        assert_eq!(says(&pulled.layers[1], "copy"), (3, 0o640));
        world.cached(tag, &pulled);
        world.is_healthy();
    }
}

#[test]
fn a_healthy_tree_does_not_move_when_an_index_is_wanted_later() {
    let world = World::new();
    world.serve("app", &[&base("honest"), &upper("x")]);
    let app = world.try_pull_with("app", &without_index()).unwrap();
    let before: Vec<_> = app.layers.iter().map(|tree| snapshot(tree)).collect();
    world.serve("other", &[&base("honest"), &upper("x"), &layer(&[File("new", "x", 0, 0o644)])]);
    let other = world.pull("other");
    assert_eq!(other.layers[..2], app.layers[..]);
    unchanged("an index", &app.layers, &before);
    for tree in &other.layers {
        assert!(beside(tree, ".index").exists());
    }
    world.is_healthy();
}

#[test]
fn a_healthy_tree_does_not_move_when_its_index_is_damaged() {
    let world = World::new();
    world.serve("app", &[&base("honest"), &upper("x")]);
    let app = world.pull("app");
    let before: Vec<_> = app.layers.iter().map(|tree| snapshot(tree)).collect();
    for tree in &app.layers {
        fs::write(beside(tree, ".index"), b"no index").unwrap();
    }
    let again = world.try_pull_with("app", &always()).unwrap();
    assert_eq!(again.layers, app.layers);
    unchanged("an index", &app.layers, &before);
    world.is_healthy();
}

#[test]
fn force_moves_nothing_that_is_healthy() {
    let world = World::new();
    world.serve("app", &[&base("honest"), &upper("x"), &layer(&[File("new", "x", 0, 0o644)])]);
    let app = world.pull("app");
    let before: Vec<_> = app.layers.iter().map(|tree| snapshot(tree)).collect();
    let layers = |inode_of: &dyn Fn(&fs::Metadata) -> (u64, i64, i64)| -> Vec<_> {
        let names = fs::read_dir(world.cache.layers_dir()).unwrap().map(|entry| entry.unwrap().path());
        let kept = [".extracted", ".index", ".table", ".inherited"];
        let names = names.filter(|path| kept.iter().any(|kept| path.to_str().unwrap().ends_with(kept)));
        let mut all: Vec<_> = names.map(|path| (path.clone(), inode_of(&path.symlink_metadata().unwrap()))).collect();
        all.sort();
        all
    };
    let facts = |there: &fs::Metadata| (there.ino(), there.mtime(), there.mtime_nsec());
    let names = layers(&facts);
    let force = PullOptions { force: true, ..PullOptions::default() };
    assert_eq!(world.try_pull_with("app", &force).unwrap().layers, app.layers);
    unchanged("force", &app.layers, &before);
    assert_eq!(layers(&facts), names);
    world.is_healthy();
}

#[test]
fn force_heals_a_layer_whose_table_lies() {
    let world = World::new();
    let (one, two) = (base("honest"), base("honest, longer"));
    world.serve("one", &[&one]);
    world.serve("two", &[&two]);
    let pulled = world.pull("one");
    world.pull("two");
    let table = |blob: &[u8]| world.cache.layer(&images::sha256(blob), LayerFile::Table);
    let lie = fs::read(table(&two)).unwrap();
    fs::write(table(&one), lie).unwrap();
    // A table of another blob is as good as none.
    assert_eq!(world.try_pull_with("one", &always()).unwrap().layers, pulled.layers);
    world.is_healthy();
}

/// As a member of a group that shares the cache could plant them.
fn give_away(path: PathBuf) {
    chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root, to give files away");
    }
    is_root
}

#[test]
fn a_pull_takes_no_table_and_no_tree_of_somebody_who_is_not_trusted() {
    if !is_root() {
        return;
    }
    for suffix in [".table", ".extracted", ".index", ".inherited"] {
        let world = World::new();
        let top = upper("x");
        world.serve("app", &[&base("honest"), &top]);
        let app = world.pull("app");
        let planted = if suffix == ".table" {
            world.cache.layer(&images::sha256(&top), LayerFile::Table)
        } else {
            beside(&app.layers[1], suffix)
        };
        give_away(planted.clone());
        world.serve("other", &[&base("honest"), &top, &layer(&[File("new", "x", 0, 0o644)])]);
        for options in [PullOptions::default(), without_index()] {
            match world.try_pull_with("other", &options) {
                Err(error) => assert_eq!(error.code(), "ERR_CACHE", "{suffix}: {error}"),
                // What is not believed was made anew.
                Ok(_) => {
                    let owner = planted.symlink_metadata().map(|there| there.uid()).unwrap_or(0);
                    assert!(owner == 0 || (suffix == ".index" && !options.index), "{suffix} was believed");
                }
            }
        }
    }
}

/// Damages a file without changing its length or time.
fn damage(tree: &std::path::Path, path: &str, bytes: &str) {
    let file = tree.join(path);
    let before = fs::metadata(&file).unwrap();
    assert_eq!(before.len(), bytes.len() as u64);
    fs::write(&file, bytes).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
}

fn tool(pulled: &PullResult) -> String {
    fs::read_to_string(pulled.layers[1].join("bin/tool")).unwrap()
}

#[test]
fn a_repair_never_copies_from_a_lower_tree_that_is_damaged() {
    // Layers are looked at in the order of their digests: both orders.
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let world = World::new();
        let top = upper(seed);
        world.serve("app", &[&base("honest"), &top]);
        let app = world.pull("app");
        let before = snapshot(&app.layers[1]);
        damage(&app.layers[0], "bin/base-tool", "malice");
        let found = world.verify();
        assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
        let report = repair(&world);
        assert!(report.ok, "{:?}", report.problems);
        assert_eq!(tool(&app), "honest", "seed {seed}");
        assert!(snapshot(&app.layers[1]) == before, "the repair moved a healthy tree");
        world.is_healthy();
    }
}

#[test]
fn a_repair_leaves_a_tree_that_is_leased() {
    let world = World::new();
    world.serve("app", &[&base("honest"), &upper("x")]);
    let app = world.pull("app");
    damage(&app.layers[0], "bin/base-tool", "malice");
    let lease = world.cache.lease(&[images::sha256(&base("honest")), images::sha256(&upper("x"))]).unwrap();
    let before: Vec<_> = app.layers.iter().map(|tree| snapshot(tree)).collect();
    repair(&world);
    unchanged("a repair", &app.layers, &before);
    drop(lease);
    let report = repair(&world);
    assert!(report.ok, "{:?}", report.problems);
    assert_eq!(fs::read_to_string(app.layers[0].join("bin/base-tool")).unwrap(), "honest");
    world.is_healthy();
}

fn owned(uid: u64) -> Vec<u8> {
    layer(&[Dir("srv", uid, 0o750)])
}

#[test]
fn an_image_without_indexes_keeps_its_owners_when_another_one_wants_indexes() {
    let world = World::new();
    let top = layer(&[File("srv/file", "x", 0, 0o644)]);
    world.serve("one", &[&owned(1), &top]);
    world.serve("two", &[&owned(2), &top]);
    let one = world.try_pull_with("one", &without_index()).unwrap();
    let before: Vec<_> = one.layers.iter().map(|tree| snapshot(tree)).collect();
    let two = world.pull("two");
    assert_eq!((says(&one.layers[1], "srv").0, says(&two.layers[1], "srv").0), (1, 2));
    unchanged("another image", &one.layers, &before);
    world.cached("one", &one);
    world.is_healthy();
}

#[test]
fn a_damaged_tree_of_one_image_never_gets_the_owners_of_another() {
    for ruin in ["file", "index", "list"] {
        let world = World::new();
        let top = layer(&[File("srv/file", "x", 0, 0o644)]);
        world.serve("one", &[&owned(1), &top]);
        world.serve("two", &[&owned(2), &top]);
        let one = world.pull("one");
        match ruin {
            "file" => fs::write(one.layers[1].join("srv/file"), "longer").unwrap(),
            "index" => fs::write(beside(&one.layers[1], ".index"), "none").unwrap(),
            _ => fs::write(beside(&one.layers[1], ".inherited"), "none").unwrap(),
        }
        let two = world.pull("two");
        assert_eq!((says(&one.layers[1], "srv").0, says(&two.layers[1], "srv").0), (1, 2), "{ruin}");
        world.cached("one", &one);
        // Pulled again, it is whole, with the owners it had.
        let again = world.try_pull_with("one", &always()).unwrap();
        assert_eq!((again.layers == one.layers, says(&again.layers[1], "srv").0), (true, 1), "{ruin}");
        assert_eq!(fs::read_to_string(one.layers[1].join("srv/file")).unwrap(), "x");
        world.is_healthy();
    }
}

#[test]
fn a_repair_publishes_no_tree_whose_links_have_no_bytes() {
    let world = World::new();
    world.serve("app", &[&base("honest"), &upper("x")]);
    let app = world.pull("app");
    damage(&app.layers[1], "home/data", "y");
    // Neither the tree nor the blob of the layer that its link leads to is there.
    fs::remove_dir_all(&app.layers[0]).unwrap();
    fs::remove_file(world.cache.layer(&images::sha256(&base("honest")), LayerFile::Blob)).unwrap();
    repair(&world);
    assert!(!app.layers[1].exists() || tool(&app) == "honest");
    let again = world.pull("app");
    assert_eq!(tool(&again), "honest");
    world.is_healthy();
}

#[test]
fn a_config_may_name_a_diff_id_by_another_algorithm_than_an_earlier_one() {
    use microsandbox_image_core::{Digest, model::Algorithm};
    let blob = base("honest");
    let (short, long) = (images::sha256(&blob).to_string(), Digest::of(Algorithm::Sha512, &blob).to_string());
    let pull = |warm: bool| {
        let world = World::new();
        world.serve("plain", &[&blob]);
        if warm {
            world.pull("plain");
        }
        world.serve_a_lie("long", &[&blob], (&short, &long), ("", ""));
        let long = world.try_pull("long").map(drop).map_err(|error| error.code());
        world.serve_a_lie("wrong", &[&blob], (&short, &Digest::of(Algorithm::Sha512, b"other").to_string()), ("", ""));
        let wrong = world.try_pull("wrong").map(drop).map_err(|error| error.code());
        world.pull("plain");
        (long, wrong)
    };
    assert_eq!(pull(true), pull(false));
    assert_eq!(pull(false), (Ok(()), Err("ERR_DIGEST_MISMATCH")));
}
