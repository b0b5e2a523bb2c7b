//! One layer in several images (SPEC §8): what has a final name is never written again, and each image has what its own
//! layers say.

#[path = "support/mod.rs"]
mod support;

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use microsandbox_image_core::{
    ImageError, PullOptions, PullPolicy, PullResult, layer::LayerIndex, progress::Unobserved, store::LayerFile,
};
use support::{
    images,
    world::{Dir, File, Link, Symlink, World, layer, says, snapshot, unchanged},
};
use tokio_util::sync::CancellationToken;

/// A layer that hard-links to a file of the base, and has a directory without an entry.
fn upper() -> Vec<u8> {
    layer(&[Link("bin/tool", "bin/base-tool"), File("home/data", "data", 0, 0o644)])
}

fn honest_base() -> Vec<u8> {
    layer(&[Dir("bin", 0, 0o755), File("bin/base-tool", "honest", 0, 0o755), Dir("home", 5, 0o700)])
}

fn evil_base() -> Vec<u8> {
    layer(&[Dir("bin", 0, 0o755), File("bin/base-tool", "malice", 0, 0o755), Dir("home", 6, 0o777)])
}

/// The same length, time and attribute as the honest one's, or a setuid file of another owner.
fn evil_bases() -> [Vec<u8>; 2] {
    let setuid = [Dir("bin", 0, 0o755), File("bin/base-tool", "malice, longer", 66, 0o4777), Dir("home", 6, 0o777)];
    [evil_base(), layer(&setuid)]
}

fn is_honest(pulled: &PullResult) {
    assert_eq!(fs::read_to_string(pulled.layers[1].join("bin/tool")).unwrap(), "honest");
    assert_eq!(says(&pulled.layers[1], "bin/tool"), (0, 0o755));
    assert_eq!(says(&pulled.layers[1], "home"), (5, 0o700));
}

#[test]
fn a_later_image_over_another_base_changes_nothing_of_an_earlier_one() {
    for evil in evil_bases() {
        let world = World::new();
        world.serve("app", &[&honest_base(), &upper()]);
        world.serve("evil", &[&evil, &upper()]);
        let app = world.pull("app");
        is_honest(&app);
        let before: Vec<_> = app.layers.iter().map(|tree| snapshot(tree)).collect();
        let other = world.pull("evil");
        assert!(fs::read_to_string(other.layers[1].join("bin/tool")).unwrap().starts_with("malice"));
        is_honest(&app);
        unchanged("another image", &app.layers, &before);
        world.cached("app", &app);
        world.cached("evil", &other);
        world.is_healthy();
    }
}

#[test]
fn an_image_is_right_though_another_one_over_another_base_came_first() {
    for evil in evil_bases() {
        let world = World::new();
        world.serve("app", &[&honest_base(), &upper()]);
        world.serve("evil", &[&evil, &upper()]);
        let other = world.pull("evil");
        let app = world.pull("app");
        is_honest(&app);
        assert!(fs::read_to_string(other.layers[1].join("bin/tool")).unwrap().starts_with("malice"));
        world.cached("app", &app);
        world.cached("evil", &other);
        world.is_healthy();
    }
}

#[test]
fn an_image_whose_registry_lacks_a_cached_layer_changes_nothing() {
    let world = World::new();
    world.serve("app", &[&honest_base(), &upper()]);
    let app = world.pull("app");
    let before: Vec<_> = app.layers.iter().map(|tree| snapshot(tree)).collect();
    world.serve("evil", &[&evil_base(), &upper()]);
    world.store.lock().unwrap().remove(&format!("blobs/{}", images::sha256(&upper())));
    // Whether it is answered from the cache or refused, the other image stays as it is.
    let _ = world.try_pull("evil");
    unchanged("it", &app.layers, &before);
    is_honest(&app);
    world.cached("app", &app);
    world.is_healthy();
}

#[test]
fn two_images_over_one_upper_layer_each_have_their_own_owners() {
    let top = layer(&[File("srv/app/file", "x", 0, 0o644)]);
    let base = |uid| layer(&[Dir("srv", uid, 0o750), Dir("srv/app", uid + 1, 0o700)]);
    let (one, two) = (base(100), base(200));
    let world = World::new();
    world.serve("one", &[&one, &top]);
    world.serve("two", &[&two, &top]);
    world.serve("bare", &[&top]);
    let pulled: Vec<_> = ["one", "two", "bare"].iter().map(|tag| world.pull(tag)).collect();
    for (pulled, owners) in
        pulled.iter().zip([[(100, 0o750), (101, 0o700)], [(200, 0o750), (201, 0o700)], [(0, 0o755); 2]])
    {
        let tree = pulled.layers.last().unwrap();
        assert_eq!([says(tree, "srv"), says(tree, "srv/app")], owners);
    }
    for (tag, pulled) in ["one", "two", "bare"].iter().zip(&pulled) {
        world.cached(tag, pulled);
        // Pulled again, nothing moves.
        let before: Vec<_> = pulled.layers.iter().map(|tree| snapshot(tree)).collect();
        let options = PullOptions { policy: microsandbox_image_core::PullPolicy::Always, ..PullOptions::default() };
        let reference = world.reference(tag);
        let again = world.registry.pull(&reference, &options, Arc::new(Unobserved), CancellationToken::new());
        assert_eq!(world.runtime.block_on(again).unwrap().layers, pulled.layers);
        unchanged("another pull", &pulled.layers, &before);
    }
    world.is_healthy();
}

#[test]
fn images_that_give_a_layer_the_same_share_its_tree() {
    let top = layer(&[File("srv/file", "x", 0, 0o644)]);
    let base = |content| layer(&[Dir("srv", 7, 0o750), File("other", content, 0, 0o644)]);
    let (one, two) = (base("1"), base("2"));
    let world = World::new();
    world.serve("one", &[&one, &top]);
    world.serve("two", &[&two, &top]);
    assert_eq!(world.pull("one").layers[1], world.pull("two").layers[1]);
}

#[test]
fn an_opaque_directory_further_up_hides_what_is_below_it() {
    let base = layer(&[Dir("a", 1, 0o711), Dir("a/b", 2, 0o722), Dir("a/b/c", 5, 0o700)]);
    // It has part of the way itself.
    let opaque = layer(&[Dir("a", 3, 0o733), File("a/.wh..wh..opq", "", 0, 0o644), Dir("a/b", 4, 0o744)]);
    let whiteout = layer(&[File(".wh.a", "", 0, 0o644)]);
    let top = layer(&[File("a/b/c/file", "x", 0, 0o644)]);
    let world = World::new();
    world.serve("opaque", &[&base, &opaque, &top]);
    world.serve("whiteout", &[&base, &whiteout, &top]);
    world.serve("open", &[&base, &top]);
    let says_all = |tag: &str| {
        let pulled = world.pull(tag);
        let tree = pulled.layers.last().unwrap();
        ["a", "a/b", "a/b/c"].map(|path| says(tree, path))
    };
    assert_eq!(says_all("opaque"), [(3, 0o733), (4, 0o744), (0, 0o755)]);
    assert_eq!(says_all("whiteout"), [(0, 0o755); 3]);
    assert_eq!(says_all("open"), [(1, 0o711), (2, 0o722), (5, 0o700)]);
    world.is_healthy();
}

#[test]
fn a_layers_own_opaque_directory_hides_what_is_below_it() {
    let base = layer(&[Dir("a", 1, 0o711), Dir("a/b", 5, 0o700)]);
    let top = layer(&[File("a/.wh..wh..opq", "", 0, 0o644), File("a/b/file", "x", 0, 0o644)]);
    let world = World::new();
    world.serve("app", &[&base, &top]);
    let pulled = world.pull("app");
    assert_eq!([says(&pulled.layers[1], "a"), says(&pulled.layers[1], "a/b")], [(1, 0o711), (0, 0o755)]);
    world.is_healthy();
}

#[test]
fn a_layer_whose_link_leads_nowhere_is_not_left_under_a_final_name() {
    let top = layer(&[File("fine", "x", 0, 0o644), Link("bin/tool", "bin/nothing")]);
    let world = World::new();
    world.serve("broken", &[&honest_base(), &top]);
    let error = world.try_pull("broken").unwrap_err();
    assert_eq!((error.code(), error.layer()), ("ERR_EXTRACTION", Some(&images::sha256(&top))));
    let text = error.to_string();
    assert!(text.contains("bin/tool") && text.contains("bin/nothing"), "{text}");
    let names = world.final_names(&images::sha256(&top));
    let trees = names.iter().filter(|name| name.contains("extract") || name.ends_with("index"));
    assert_eq!(trees.collect::<Vec<_>>(), Vec::<&String>::new(), "{names:?}");
    assert!(world.registry.pull_cached(&world.reference("broken"), None).unwrap().is_none());
    // An image that has the target can use the layer.
    world.serve("whole", &[&layer(&[File("bin/nothing", "there", 3, 0o700)]), &top]);
    let whole = world.pull("whole");
    assert_eq!(fs::read_to_string(whole.layers[1].join("bin/tool")).unwrap(), "there");
    world.is_healthy();
    // And the other one is refused as before.
    assert_eq!(world.try_pull("broken").unwrap_err().code(), "ERR_EXTRACTION");
}

#[test]
fn a_link_leads_through_directory_links_of_lower_layers() {
    let base = layer(&[File("usr/lib/x", "content", 4, 0o640), Symlink("lib", "usr/lib")]);
    let top = layer(&[Link("copy", "lib/x")]);
    let world = World::new();
    world.serve("app", &[&base, &top]);
    let pulled = world.pull("app");
    assert_eq!(fs::read_to_string(pulled.layers[1].join("copy")).unwrap(), "content");
    assert_eq!(says(&pulled.layers[1], "copy"), (4, 0o640));
    world.is_healthy();
}

#[test]
fn no_file_shares_an_inode_with_another_layers() {
    let world = World::new();
    world.serve("app", &[&honest_base(), &upper()]);
    let pulled = world.pull("app");
    let [held, link] = [pulled.layers[0].join("bin/base-tool"), pulled.layers[1].join("bin/tool")]
        .map(|path| fs::metadata(path).unwrap());
    assert_ne!(held.ino(), link.ino());
    assert_eq!((held.nlink(), link.nlink()), (1, 1));
}

/// What an image fails with in a cache that has its layer from another image, and in an empty one.
fn both_ways(config: (&str, &str), manifest: (&str, &str)) -> [Result<PullResult, ImageError>; 2] {
    [true, false].map(|warm| {
        let world = World::new();
        let blob = honest_base();
        world.serve("honest", &[&blob]);
        if warm {
            world.pull("honest");
        }
        world.serve_a_lie("liar", &[&blob], config, manifest);
        let outcome = world.try_pull("liar");
        assert!(outcome.is_ok() || world.registry.pull_cached(&world.reference("liar"), None).unwrap().is_none());
        if warm {
            let honest = world.pull("honest");
            assert!(honest.cached, "the honest image is still there");
            world.is_healthy();
        }
        outcome
    })
}

#[test]
fn a_config_that_claims_another_diff_id_fails_as_in_an_empty_cache() {
    let right = images::sha256(&honest_base()).hex().to_owned();
    let wrong = "1".repeat(64);
    let codes = both_ways((&right, &wrong), ("", "")).map(|outcome| outcome.unwrap_err().code());
    assert_eq!(codes, ["ERR_DIGEST_MISMATCH"; 2]);
}

#[test]
fn a_manifest_that_claims_another_size_fails_as_in_an_empty_cache() {
    let blob = honest_base();
    let right = format!(r#""digest":"{}","size":{}"#, images::sha256(&blob), blob.len());
    for wrong in [blob.len() - 512, blob.len() + 512] {
        let wrong = format!(r#""digest":"{}","size":{wrong}"#, images::sha256(&blob));
        let [warm, cold] = both_ways(("", ""), (&right, &wrong)).map(|outcome| outcome.unwrap_err());
        assert_eq!(warm.code(), cold.code(), "{warm} / {cold}");
    }
}

#[test]
fn images_of_the_same_layers_in_opposite_order_are_pulled_side_by_side() {
    let one = layer(&[File("x/one", "1", 0, 0o644), Dir("y", 11, 0o711), File("y/f", "from one", 1, 0o600)]);
    let two = layer(&[File("y/two", "2", 0, 0o644), Dir("x", 22, 0o722)]);
    for _ in 0..5 {
        let world = World::new();
        world.serve("ab", &[&one, &two]);
        world.serve("ba", &[&two, &one]);
        let (ab, ba) = (world.reference("ab"), world.reference("ba"));
        let options = PullOptions::default();
        let pull = |reference| world.registry.pull(reference, &options, Arc::new(Unobserved), CancellationToken::new());
        let both =
            async { tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(pull(&ab), pull(&ba)) }).await };
        let (ab, ba) = world.runtime.block_on(both).expect("they wait for each other");
        let (ab, ba) = (ab.unwrap(), ba.unwrap());
        // The lower layer of each has nothing to inherit from, the upper one what the other says.
        assert_eq!([says(&ab.layers[0], "x"), says(&ab.layers[1], "y")], [(0, 0o755), (11, 0o711)]);
        assert_eq!([says(&ba.layers[0], "y"), says(&ba.layers[1], "x")], [(0, 0o755), (22, 0o722)]);
        world.cached("ab", &ab);
        world.cached("ba", &ba);
        world.is_healthy();
    }
}

#[test]
fn one_layer_at_two_places_of_an_image_has_a_tree_for_each() {
    let x = layer(&[File("d/file", "x", 0, 0o644)]);
    let y = layer(&[Dir("d", 9, 0o700)]);
    let world = World::new();
    world.serve("xyx", &[&x, &y, &x]);
    let pulled = world.pull("xyx");
    assert_eq!(
        pulled.layers.iter().map(|tree| says(tree, "d")).collect::<Vec<_>>(),
        [(0, 0o755), (9, 0o700), (9, 0o700)]
    );
    assert_ne!(pulled.layers[0], pulled.layers[2]);
    let blob = format!("blobs/{}", images::sha256(&x));
    assert_eq!(world.server.asked(&blob).iter().filter(|request| request.method == "GET").count(), 1);
    world.cached("xyx", &pulled);
    world.is_healthy();
}

/// A layer of files with several names, and with directories that no entry describes.
fn linked() -> Vec<u8> {
    layer(&[
        File("srv/one", "1", 3, 0o600),
        Link("srv/two", "srv/one"),
        Dir("etc", 4, 0o711),
        File("etc/z", "z", 0, 0o644),
        Link("etc/a", "etc/z"),
    ])
}

fn index_is_of(tree: &Path, index: &Path) {
    let index = LayerIndex::open(index).unwrap();
    for path in ["srv", "srv/one", "srv/two", "etc", "etc/a", "etc/z"] {
        let inode = tree.join(path).symlink_metadata().unwrap().ino();
        assert_eq!(index.lookup(path.as_bytes()).unwrap().inode, inode, "{path}");
    }
    let names = |path: &str| {
        let inode = tree.join(path).symlink_metadata().unwrap().ino();
        index.hard_links(inode).into_iter().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names("srv/one"), ["srv/one", "srv/two"]);
    assert_eq!(names("etc/z"), ["etc/a", "etc/z"]);
}

#[test]
fn a_tree_without_an_index_gets_one_and_stays_where_it_is() {
    let world = World::new();
    let base = layer(&[Dir("srv", 7, 0o700)]);
    world.serve("app", &[&base, &linked()]);
    let without = PullOptions { index: false, ..PullOptions::default() };
    let pulled = world.try_pull_with("app", &without).unwrap();
    assert_eq!(pulled.indexes, [None, None]);
    let before: Vec<_> = pulled.layers.iter().map(|tree| snapshot(tree)).collect();
    let with = PullOptions { policy: PullPolicy::Always, ..PullOptions::default() };
    let again = world.try_pull_with("app", &with).unwrap();
    assert_eq!(again.layers, pulled.layers);
    unchanged("asking for an index", &pulled.layers, &before);
    index_is_of(&again.layers[1], again.indexes[1].as_deref().expect("an index was asked for"));
    world.is_healthy();
}

#[test]
fn a_forced_pull_leaves_healthy_trees_where_they_are() {
    let world = World::new();
    let base = layer(&[Dir("srv", 7, 0o700)]);
    world.serve("app", &[&base, &linked()]);
    let pulled = world.pull("app");
    let before: Vec<_> = pulled.layers.iter().map(|tree| snapshot(tree)).collect();
    let force = PullOptions { force: true, ..PullOptions::default() };
    assert_eq!(world.try_pull_with("app", &force).unwrap().layers, pulled.layers);
    unchanged("force", &pulled.layers, &before);
    index_is_of(&pulled.layers[1], pulled.indexes[1].as_deref().unwrap());
    world.is_healthy();
}

#[test]
fn the_copy_for_a_second_place_in_an_image_has_an_index_of_its_own() {
    let world = World::new();
    let between = layer(&[Dir("srv", 9, 0o700)]);
    world.serve("twice", &[&linked(), &between, &linked()]);
    let pulled = world.pull("twice");
    assert_eq!([says(&pulled.layers[0], "srv"), says(&pulled.layers[2], "srv")], [(0, 0o755), (9, 0o700)]);
    for at in [0, 2] {
        index_is_of(&pulled.layers[at], pulled.indexes[at].as_deref().unwrap());
    }
    world.is_healthy();
}

#[test]
fn a_damaged_table_is_made_again_from_the_blob() {
    let world = World::new();
    let base = layer(&[Dir("srv", 7, 0o700)]);
    world.serve("app", &[&base, &linked()]);
    let pulled = world.pull("app");
    let table = world.cache.layer(&images::sha256(&linked()), LayerFile::Table);
    let right = fs::read(&table).unwrap();
    for at in [8, 70, right.len() - 1] {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        fs::write(&table, &wrong).unwrap();
        let always = PullOptions { policy: PullPolicy::Always, ..PullOptions::default() };
        assert_eq!(world.try_pull_with("app", &always).unwrap().layers, pulled.layers, "byte {at}");
        assert!(fs::read(&table).unwrap() == right, "byte {at}");
    }
    world.is_healthy();
}
