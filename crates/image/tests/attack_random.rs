//! Random images over shared layers, pulled in any order: each is what a simple model of merging says, after every pull, and
//! no published tree ever changes.

#[path = "support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use microsandbox_image_core::{PullOptions, PullPolicy, layer::read_stat, progress::Unobserved};
use support::world::{Dir, File, Link, Member, Symlink, World, layer, snapshot};
use tokio_util::sync::CancellationToken;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Dir(u32, u32),
    File(String, u32, u32),
    Symlink(String),
    Link(String),
    Whiteout,
    Opaque,
}

type Layer = BTreeMap<String, Entry>;

/// `x` may be a directory here and a file there; what begins with `l` is a symbolic link.
fn directory(random: &mut Random) -> String {
    let depth = 1 + random.below(3);
    (0..depth).map(|_| random.pick(&["a", "b", "x"])).collect::<Vec<_>>().join("/")
}

fn random_layer(random: &mut Random) -> Layer {
    let mut made = Layer::new();
    for _ in 0..1 + random.below(7) {
        let at = directory(random);
        let owner = random.below(5) as u32 * 11;
        let name = random.pick(&["f", "g", "f\u{e9}"]);
        let file = if random.below(3) == 0 { name.to_owned() } else { format!("{at}/{name}") };
        let (path, entry) = match random.below(9) {
            0 | 1 => (at, Entry::Dir(owner, 0o700 + owner)),
            2 | 3 => (file, Entry::File(format!("{:04}", random.below(10_000)), owner, 0o600 + owner)),
            4 => (
                random.pick(&["l1", "a/l2"]).to_owned(),
                Entry::Symlink(random.pick(&["a", "/a/b", "b/../a", "x"]).to_owned()),
            ),
            5 => (at, Entry::File("no directory".to_owned(), owner, 0o644)),
            6 => {
                let (parent, name) = at.rsplit_once('/').map_or(("", &at[..]), |(parent, name)| (parent, name));
                (join(parent, &format!(".wh.{name}")), Entry::Whiteout)
            }
            7 => (join(&at, ".wh..wh..opq"), Entry::Opaque),
            _ => {
                let through = random.pick(&["", "a", "l1", "a/l2", "a/b", "x"]);
                (format!("{at}/hard"), Entry::Link(join(through, random.pick(&["f", "g"]))))
            }
        };
        made.insert(path, entry);
    }
    // Nothing of a layer lies below what is no directory in it, and it hides nothing that it has.
    let is_other = |path: &str, made: &Layer| made.get(path).is_some_and(|entry| !matches!(entry, Entry::Dir(..)));
    let hides = |path: &str| {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let hidden = join(parent, name.strip_prefix(".wh.").unwrap_or(name));
        made.keys().any(|other| *other == hidden || other.starts_with(&format!("{hidden}/")))
    };
    let wrong: Vec<String> = made
        .iter()
        .filter(|(path, entry)| {
            ancestors(path).any(|above| is_other(above, &made)) || (**entry == Entry::Whiteout && hides(path))
        })
        .map(|(path, _)| path.clone())
        .collect();
    made.retain(|path, _| !wrong.contains(path));
    made
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn archive(made: &Layer) -> Vec<u8> {
    let mut members = Vec::new();
    for (path, entry) in made {
        members.push(match entry {
            Entry::Dir(owner, mode) => Dir(path, u64::from(*owner), *mode),
            Entry::File(text, owner, mode) => File(path, text, u64::from(*owner), *mode),
            Entry::Symlink(target) => Symlink(path, target),
            Entry::Link(target) => Link(path, target),
            Entry::Whiteout | Entry::Opaque => File(path, "", 0, 0o644),
        });
    }
    // Links in any order; here before what they lead to.
    members.sort_by_key(|member| !matches!(member, Member::Link(..)));
    layer(&members)
}

type Merged = BTreeMap<String, Entry>;

fn remove(merged: &mut Merged, path: &str) {
    merged.remove(path);
    remove_below(merged, path);
}

fn remove_below(merged: &mut Merged, path: &str) {
    let prefix = join(path, "");
    merged.retain(|other, _| !other.starts_with(&prefix));
}

/// Puts a layer on top; `None` where one of its links leads nowhere.
fn merge(merged: &mut Merged, above: &Layer) -> Option<()> {
    for (path, entry) in above {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match entry {
            Entry::Whiteout => remove(merged, &join(parent, &name[4..])),
            Entry::Opaque => remove_below(merged, parent),
            _ => {}
        }
    }
    for (path, entry) in above {
        for directory in ancestors(path) {
            if !above.contains_key(directory) && !matches!(merged.get(directory), Some(Entry::Dir(..))) {
                remove(merged, directory);
                merged.insert(directory.to_owned(), Entry::Dir(0, 0o755));
            }
        }
        match entry {
            Entry::Whiteout | Entry::Opaque => continue,
            Entry::Dir(..) if matches!(merged.get(path), Some(Entry::Dir(..))) => {}
            _ => remove(merged, path),
        }
        merged.insert(path.clone(), entry.clone());
    }
    for (path, entry) in above {
        if let Entry::Link(target) = entry {
            let file = resolve(merged, target)?;
            merged.insert(path.clone(), file);
        }
    }
    Some(())
}

fn resolve(merged: &Merged, target: &str) -> Option<Entry> {
    let mut names: Vec<String> = target.split('/').rev().map(str::to_owned).collect();
    let (mut at, mut links) = (String::new(), 0);
    while let Some(name) = names.pop() {
        if name == ".." {
            at = at.rsplit_once('/').map_or(String::new(), |(parent, _)| parent.to_owned());
            continue;
        }
        let next = join(&at, &name);
        match merged.get(&next)? {
            file @ Entry::File(..) if names.is_empty() => return Some(file.clone()),
            Entry::Dir(..) => at = next,
            Entry::Symlink(target) if !names.is_empty() => {
                links += 1;
                if links > 40 {
                    return None;
                }
                if target.starts_with('/') {
                    at = String::new();
                }
                names.extend(target.split('/').rev().filter(|name| !name.is_empty()).map(str::to_owned));
            }
            _ => return None,
        }
    }
    None
}

/// What an overlay of these trees shows.
fn overlay(trees: &[PathBuf]) -> Merged {
    let mut merged = Merged::new();
    for tree in trees {
        let mut above = Layer::new();
        walk(tree, "", &mut above);
        merge(&mut merged, &above).unwrap();
    }
    merged
}

fn walk(tree: &Path, at: &str, into: &mut Layer) {
    for entry in fs::read_dir(tree.join(at)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = join(at, &name);
        if path == ".complete" {
            continue;
        }
        let host = tree.join(&path);
        let entry = match read_stat(&host).unwrap() {
            _ if name == ".wh..wh..opq" => Entry::Opaque,
            _ if name.starts_with(".wh.") => Entry::Whiteout,
            Some(stat) if stat.mode & 0o170_000 == 0o040_000 => Entry::Dir(stat.uid, stat.mode & 0o7777),
            Some(stat) if stat.mode & 0o170_000 == 0o120_000 => Entry::Symlink(fs::read_to_string(&host).unwrap()),
            Some(stat) => Entry::File(fs::read_to_string(&host).unwrap(), stat.uid, stat.mode & 0o7777),
            None => panic!("{} has no attribute", host.display()),
        };
        if matches!(entry, Entry::Dir(..)) {
            walk(tree, &path, into);
        }
        into.insert(path, entry);
    }
}

struct Image {
    tag: String,
    /// `None` where a link leads nowhere.
    expected: Option<Merged>,
}

/// Images of these random layers, served.
fn images_of(world: &World, random: &mut Random) -> Vec<Image> {
    let layers: Vec<Layer> = (0..5).map(|_| random_layer(random)).collect();
    let blobs: Vec<Vec<u8>> = layers.iter().map(archive).collect();
    let mut made = Vec::new();
    for number in 0..7 {
        let chosen: Vec<usize> = (0..2 + random.below(3)).map(|_| random.below(layers.len())).collect();
        let mut merged = Merged::new();
        let whole = chosen.iter().all(|&at| merge(&mut merged, &layers[at]).is_some());
        let tag = format!("image-{number}");
        world.serve(&tag, &chosen.iter().map(|&at| &blobs[at][..]).collect::<Vec<_>>());
        made.push(Image { tag, expected: whole.then_some(merged) });
    }
    made
}

fn trees(world: &World) -> BTreeSet<PathBuf> {
    let names = fs::read_dir(world.cache.layers_dir()).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "extracted")).collect()
}

#[test]
fn random_images_over_shared_layers_are_what_a_model_says_in_any_order_and_no_tree_changes() {
    let (mut whole, mut keyed) = (0, 0);
    for seed in 1..=14u64 {
        let world = World::new();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let images = images_of(&world, &mut random);
        let mut published = BTreeMap::new();
        let mut pulled: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
        for _ in 0..10 {
            let number = random.below(images.len());
            let image = &images[number];
            let policy = if random.below(2) == 0 { PullPolicy::Always } else { PullPolicy::IfMissing };
            let options = PullOptions {
                policy,
                force: random.below(4) == 0,
                index: random.below(3) != 0,
                keep_blobs: random.below(3) != 0,
                ..PullOptions::default()
            };
            match (world.try_pull_with(&image.tag, &options), &image.expected) {
                (Ok(result), Some(_)) => drop(pulled.insert(number, result.layers)),
                (Err(error), None) => assert_eq!(error.code(), "ERR_EXTRACTION", "seed {seed}: {error}"),
                (outcome, expected) => panic!("seed {seed}, {}: {outcome:?} for {expected:?}", image.tag),
            }
            for (number, trees) in &pulled {
                assert_eq!(Some(overlay(trees)), images[*number].expected, "seed {seed}, {}", images[*number].tag);
            }
            whole += usize::from(pulled.contains_key(&number));
            for tree in trees(&world) {
                let now = snapshot(&tree);
                let before = published.entry(tree.clone()).or_insert_with(|| now.clone());
                assert!(*before == now, "seed {seed}: {} changed", tree.display());
            }
        }
        let is_keyed = |tree: &&PathBuf| tree.file_name().unwrap().to_string_lossy().matches('.').count() == 2;
        keyed += published.keys().filter(is_keyed).count();
        world.is_healthy();
    }
    assert!(whole > 40 && keyed > 2, "they show little: {whole} pulls, {keyed} trees of their own");
}

#[test]
fn random_images_pulled_side_by_side_are_what_a_model_says() {
    for seed in 101..=106u64 {
        let world = World::new();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let images = images_of(&world, &mut random);
        let options = PullOptions::default();
        let references: Vec<_> = images.iter().map(|image| world.reference(&image.tag)).collect();
        let pulls = references
            .iter()
            .map(|reference| world.registry.pull(reference, &options, Arc::new(Unobserved), CancellationToken::new()));
        let outcomes = world.runtime.block_on(futures_util::future::join_all(pulls));
        for (image, outcome) in images.iter().zip(outcomes) {
            match (outcome, &image.expected) {
                (Ok(result), Some(expected)) => assert_eq!(overlay(&result.layers), *expected, "seed {seed}"),
                (Err(error), None) => assert_eq!(error.code(), "ERR_EXTRACTION", "seed {seed}: {error}"),
                (outcome, expected) => panic!("seed {seed}, {}: {outcome:?} for {expected:?}", image.tag),
            }
        }
        world.is_healthy();
    }
}
