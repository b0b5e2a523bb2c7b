//! Each rule as a row of a table, random layers against a model that has no cleverness, and hostile sizes.

use std::time::{Duration, Instant};

use super::{LayerEntry, LayerRows, What, inherit};
use crate::{
    error::{ErrorKind, Result},
    layer::{Halt, OverrideStat},
    model::{Algorithm, Digest},
    store::Inherited,
};

mod model;

const DEFAULT: u32 = 0;

/// An entry in short: a path and what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Short {
    /// With its owner.
    Dir(u32),
    OpaqueDir(u32),
    Implied,
    OpaqueImplied,
    File,
    Symlink(&'static str),
    Link(&'static str),
    Whiteout,
}
use Short::{Dir, File, Implied, Link, OpaqueDir, OpaqueImplied, Symlink, Whiteout};

#[derive(Debug, Clone)]
pub(super) struct Layer {
    digest: Digest,
    entries: Vec<(Vec<u8>, Short)>,
}

fn stat(uid: u32) -> OverrideStat {
    let mode = if uid == DEFAULT { 0o040_755 } else { 0o040_700 };
    OverrideStat { uid, gid: uid, mode, rdev: 0 }
}

impl LayerRows for Layer {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn has_implied_directories(&self) -> bool {
        self.entries.iter().any(|(_, short)| matches!(short, Implied | OpaqueImplied))
    }

    fn has_cross_layer_links(&self) -> bool {
        self.entries.iter().any(|(_, short)| matches!(short, Link(_)))
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, at: usize) -> LayerEntry<'_> {
        let (path, short) = &self.entries[at];
        let directory = |uid, implied, opaque| What::Directory { stat: stat(uid), implied, opaque };
        let what = match *short {
            Dir(uid) => directory(uid, false, false),
            OpaqueDir(uid) => directory(uid, false, true),
            Implied => directory(DEFAULT, true, false),
            OpaqueImplied => directory(DEFAULT, true, true),
            File => What::File,
            Symlink(target) => What::Symlink { target: target.as_bytes() },
            Link(target) => What::CrossLayerLink { target: target.as_bytes() },
            Whiteout => What::Whiteout,
        };
        LayerEntry { path, what }
    }
}

/// A layer of these entries; directories that are not among them are implied, as the planner makes them.
pub(super) fn layer(number: usize, entries: &[(&str, Short)]) -> Layer {
    let mut all: std::collections::BTreeMap<Vec<u8>, Short> =
        entries.iter().map(|(path, short)| (path.as_bytes().to_vec(), short.clone())).collect();
    for (path, _) in entries {
        for (at, _) in path.match_indices('/') {
            all.entry(path.as_bytes()[..at].to_vec()).or_insert(Implied);
        }
    }
    Layer { digest: digest(number), entries: all.into_iter().collect() }
}

fn digest(number: usize) -> Digest {
    Digest::of(Algorithm::Sha256, number.to_string().as_bytes())
}

fn run(layers: &[Layer]) -> Result<Vec<Inherited>> {
    inherit(layers, &Halt::default())
}

fn layers(of: &[&[(&str, Short)]]) -> Vec<Layer> {
    of.iter().enumerate().map(|(number, entries)| layer(number, entries)).collect()
}

/// The owner that `path` inherits in the topmost layer.
fn owner(path: &str, of: &[&[(&str, Short)]]) -> u32 {
    let inherited = run(&layers(of)).unwrap().pop().unwrap();
    let found = inherited.directories.iter().find(|(known, _)| known == path.as_bytes());
    let (_, found) = found.unwrap_or_else(|| panic!("{path} is no implied directory"));
    assert_eq!(*found, stat(found.uid));
    found.uid
}

/// Layer and path of what the link at `path` in the topmost layer holds.
fn holder(path: &str, of: &[&[(&str, Short)]]) -> (usize, String) {
    let inherited = run(&layers(of)).unwrap().pop().unwrap();
    let (_, holder) = inherited.links.iter().find(|(known, _)| known == path.as_bytes()).unwrap();
    let layer = (0..of.len()).find(|&number| digest(number) == holder.digest).unwrap();
    (layer, String::from_utf8(holder.path.clone()).unwrap())
}

fn refused(of: &[&[(&str, Short)]]) -> (Digest, String, String) {
    let error = run(&layers(of)).unwrap_err();
    let ErrorKind::Extraction { entry: Some(entry), reason } = error.kind() else { panic!("{error}") };
    (error.layer().unwrap().clone(), entry.clone(), reason.clone())
}

#[test]
fn a_directory_takes_what_the_nearest_lower_layer_says() {
    assert_eq!(owner("a", &[&[("a/f", File)]]), DEFAULT);
    assert_eq!(owner("a", &[&[("a", Dir(1))], &[("a/f", File)]]), 1);
    assert_eq!(owner("a", &[&[("a", Dir(1))], &[("a", Dir(2))], &[("a/f", File)]]), 2);
    assert_eq!(owner("a", &[&[("a", Dir(1))], &[("b", File)], &[("a/f", File)]]), 1);
    assert_eq!(owner("a/b", &[&[("a/b", Dir(1))], &[("a/b/c", File)]]), 1);
}

#[test]
fn an_implied_directory_hands_on_what_it_inherited_itself() {
    assert_eq!(owner("a", &[&[("a", Dir(1))], &[("a/f", File)], &[("a/g", File)]]), 1);
    assert_eq!(owner("a", &[&[("a/f", File)], &[("a", Dir(1))], &[("a/g", File)], &[("a/h", File)]]), 1);
    let answers = run(&layers(&[&[("a/f", File)], &[("a", Dir(1))], &[("a/f", File)]])).unwrap();
    assert_eq!(answers[0].directories, [(b"a".to_vec(), stat(DEFAULT))]);
    assert_eq!(answers[1], Inherited::default());
    assert_eq!(answers[2].directories, [(b"a".to_vec(), stat(1))]);
}

#[test]
fn what_a_whiteout_hides_is_not_inherited_at_the_path_or_further_up() {
    let base: &[(&str, Short)] = &[("a", Dir(1)), ("a/b", Dir(2)), ("a/b/c", Dir(3))];
    assert_eq!(owner("a/b/c", &[base, &[("a/b/c/f", File)]]), 3);
    assert_eq!(owner("a/b/c", &[base, &[("a/b/.wh.c", Whiteout)], &[("a/b/c/f", File)]]), DEFAULT);
    assert_eq!(owner("a/b/c", &[base, &[(".wh.a", Whiteout)], &[("a/b/c/f", File)]]), DEFAULT);
    assert_eq!(owner("a/b", &[base, &[("a/b/.wh.c", Whiteout)], &[("a/b/c/f", File)]]), 2);
    assert_eq!(owner("a", &[base, &[("a/.wh.b", Whiteout)], &[("a/b/c/f", File)]]), 1);
    // A name that begins like the hidden one is another.
    assert_eq!(owner("ab", &[&[("ab", Dir(1))], &[(".wh.a", Whiteout)], &[("ab/f", File)]]), 1);
}

#[test]
fn what_an_opaque_directory_hides_is_not_inherited_but_it_is_itself() {
    let base: &[(&str, Short)] = &[("a", Dir(1)), ("a/b", Dir(2)), ("a/b/c", Dir(3))];
    assert_eq!(owner("a/b/c", &[base, &[("a", OpaqueDir(5))], &[("a/b/c/f", File)]]), DEFAULT);
    assert_eq!(owner("a/b", &[base, &[("a", OpaqueDir(5))], &[("a/b/c/f", File)]]), DEFAULT);
    // Also where the opaque directory's layer has part of the way.
    assert_eq!(owner("a/b/c", &[base, &[("a", OpaqueDir(5)), ("a/b", Dir(6))], &[("a/b/c/f", File)]]), DEFAULT);
    assert_eq!(owner("a", &[base, &[("a", OpaqueDir(5))], &[("a/b/c/f", File)]]), 5);
    assert_eq!(owner("a/b/c", &[base, &[("", OpaqueDir(5))], &[("a/b/c/f", File)]]), DEFAULT);
}

#[test]
fn the_layers_own_opaque_marker_counts() {
    let base: &[(&str, Short)] = &[("a", Dir(1)), ("a/b", Dir(2))];
    assert_eq!(owner("a/b", &[base, &[("a", OpaqueDir(5)), ("a/b/f", File)]]), DEFAULT);
    assert_eq!(owner("a/b", &[base, &[("a", OpaqueImplied), ("a/b/f", File)]]), DEFAULT);
    assert_eq!(owner("a", &[base, &[("a", OpaqueImplied), ("a/b/f", File)]]), 1);
}

#[test]
fn a_file_in_between_hides_what_was_there_before_it() {
    for thing in [File, Symlink("x"), Link("base")] {
        let base: &[(&str, Short)] = &[("base", File), ("a", Dir(1)), ("a/b", Dir(2))];
        assert_eq!(owner("a", &[base, &[("a", thing.clone())], &[("a/f", File)]]), DEFAULT);
        assert_eq!(owner("a/b", &[base, &[("a", thing.clone())], &[("a/b/f", File)]]), DEFAULT);
        let above: &[&[(&str, Short)]] = &[base, &[("a", thing)], &[("a", Dir(4))], &[("a/b/f", File)]];
        assert_eq!((owner("a", above), owner("a/b", above)), (4, DEFAULT));
    }
}

#[test]
fn a_layer_removes_nothing_of_its_own() {
    // `!` sorts before the dot of the whiteout, `b` after it.
    for name in ["!", "b"] {
        let (path, whiteout) = (format!("a/{name}"), format!("a/.wh.{name}"));
        let upper: &[(&str, Short)] = &[(&path, Dir(3)), (&whiteout, Whiteout)];
        assert_eq!(owner(&path, &[&[("a", Dir(1))], upper, &[(&format!("{path}/f"), File)]]), 3);
    }
}

#[test]
fn a_link_is_held_by_the_nearest_file_below() {
    assert_eq!(holder("l", &[&[("x", File)], &[("l", Link("x"))]]), (0, "x".into()));
    assert_eq!(holder("l", &[&[("x", File)], &[("x", File)], &[("l", Link("x"))]]), (1, "x".into()));
    assert_eq!(holder("d/l", &[&[("d/x", File)], &[("d/l", Link("d/x"))]]), (0, "d/x".into()));
    // A symbolic link is a file like others.
    assert_eq!(holder("l", &[&[("x", Symlink("y"))], &[("l", Link("x"))]]), (0, "x".into()));
    // It is found below a directory that the link's own layer implies.
    assert_eq!(
        holder("d/l", &[&[("d", Dir(1)), ("d/x", File)], &[("d/y", File)], &[("d/l", Link("d/x"))]]),
        (0, "d/x".into())
    );
}

#[test]
fn a_link_to_a_link_is_held_by_the_file_at_the_end() {
    let base: &[(&str, Short)] = &[("x", File)];
    assert_eq!(holder("m", &[base, &[("l", Link("x"))], &[("m", Link("l"))]]), (0, "x".into()));
    assert_eq!(holder("m", &[base, &[("l", Link("x"))], &[("x", File)], &[("m", Link("l"))]]), (0, "x".into()));
    // Also to one of its own layer, whichever sorts first.
    assert_eq!(holder("a", &[base, &[("a", Link("b")), ("b", Link("c")), ("c", Link("x"))]]), (0, "x".into()));
    assert_eq!(holder("c", &[base, &[("a", Link("x")), ("b", Link("a")), ("c", Link("b"))]]), (0, "x".into()));
}

#[test]
fn a_link_to_itself_is_held_by_what_was_there() {
    assert_eq!(holder("x", &[&[("x", File)], &[("x", Link("x"))]]), (0, "x".into()));
    assert_eq!(holder("x", &[&[("y", File)], &[("x", Link("y"))], &[("x", Link("x"))]]), (0, "y".into()));
    let both: &[(&str, Short)] = &[("a", Link("b")), ("b", Link("a"))];
    assert_eq!(holder("a", &[&[("a", File), ("b", File)], both]).0, 0);
    assert!(run(&layers(&[&[("c", File)], both])).is_err());
}

#[test]
fn links_that_lie_below_each_other_lead_nowhere() {
    let base: &[(&str, Short)] = &[("a/x", File), ("b/x", File)];
    for links in [vec![("a", Link("a/x"))], vec![("a", Link("b/x")), ("b", Link("a/x"))]] {
        let (_, _, reason) = refused(&[base, &links]);
        assert!(reason.ends_with("which neither its layer nor a lower one has"), "{reason}");
    }
}

#[test]
fn a_link_leads_through_directory_links_inside_the_root() {
    let base: &[(&str, Short)] = &[("usr/lib/x", File), ("lib", Symlink("usr/lib"))];
    assert_eq!(holder("l", &[base, &[("l", Link("lib/x"))]]), (0, "usr/lib/x".into()));
    let cases: &[(&[(&str, Short)], &str)] = &[
        (&[("lib", Symlink("/usr/lib"))], "lib/x"),
        (&[("lib", Symlink("../../../usr/./lib//"))], "lib/x"),
        (&[("a/b", Symlink("../c")), ("c", Symlink("usr/lib"))], "a/b/x"),
        (&[("a/b", Symlink("/../c")), ("c", Symlink("d/e")), ("d/e", Symlink("../usr/lib"))], "a/b/x"),
        (&[("lib", Symlink("usr")), ("usr/lib", Dir(1))], "lib/lib/x"),
    ];
    for (links, target) in cases {
        let target: &'static str = target;
        assert_eq!(holder("l", &[&[("usr/lib/x", File)], links, &[("l", Link(target))]]), (0, "usr/lib/x".into()));
        // The links may as well be of the link's own layer.
        let own = [*links, &[("l", Link(target))]].concat();
        assert_eq!(holder("l", &[&[("usr/lib/x", File)], &own]), (0, "usr/lib/x".into()));
    }
}

#[test]
fn a_directory_no_entry_described_does_not_hide_the_link_it_lies_over() {
    let base: &[(&str, Short)] = &[("usr/lib/x", File), ("lib", Symlink("usr/lib"))];
    let target = &[("l", Link("lib/x"))];
    assert_eq!(holder("l", &[base, &[("lib/y", File)], target]), (0, "usr/lib/x".into()));
    assert_eq!(holder("lib/l", &[base, &[("lib/l", Link("lib/x"))]]), (0, "usr/lib/x".into()));
    assert_eq!(holder("l", &[base, &[("lib/x", File)], target]), (1, "lib/x".into()));
    for hides in [[("lib", Dir(1))], [("lib", OpaqueImplied)], [("lib/.wh.x", Whiteout)], [("usr/lib/.wh.x", Whiteout)]]
    {
        assert!(run(&layers(&[base, &hides, target])).is_err(), "{hides:?}");
    }
}

#[test]
fn a_hard_link_to_a_directory_link_is_a_directory_link() {
    let base: &[(&str, Short)] = &[("usr/lib/x", File), ("lib", Symlink("usr/lib"))];
    assert_eq!(holder("l", &[base, &[("m", Link("lib"))], &[("l", Link("m/x"))]]), (0, "usr/lib/x".into()));
    assert_eq!(holder("a", &[base, &[("m", Link("lib")), ("a", Link("m/x"))]]), (0, "usr/lib/x".into()));
}

#[test]
fn a_link_that_leads_nowhere_names_its_layer_entry_and_target() {
    let (layer, entry, reason) = refused(&[&[("x", File)], &[("d/l", Link("e/y"))]]);
    assert_eq!((layer, entry.as_str()), (digest(1), "d/l"));
    assert_eq!(reason, "it is a hard link to \"e/y\", which neither its layer nor a lower one has");
    let base: &[(&str, Short)] = &[("d/x", File), ("f", File), ("s", Symlink("nowhere"))];
    for hides in
        [[("d/.wh.x", Whiteout)], [(".wh.d", Whiteout)], [("d", OpaqueDir(1))], [("d", File)], [("d", Symlink("e"))]]
    {
        assert!(run(&layers(&[base, &hides, &[("l", Link("d/x"))]])).is_err(), "{hides:?}");
    }
    for target in ["f/x", "s/x", "d/x/y", "d/.wh.x"] {
        assert!(run(&layers(&[base, &[("l", Link(target))]])).is_err(), "{target}");
    }
}

#[test]
fn a_link_to_a_directory_is_refused() {
    for target in ["d", "s/.."] {
        let base: &[(&str, Short)] = &[("d/e", Dir(1)), ("s", Symlink("d/e"))];
        let (_, entry, reason) = refused(&[base, &[("l", Link(target))]]);
        assert_eq!((entry.as_str(), reason.ends_with("which is a directory")), ("l", true), "{reason}");
    }
}

#[test]
fn a_circle_of_directory_links_is_refused_and_forty_are_followed() {
    let (_, _, reason) = refused(&[&[("a", Symlink("b")), ("b", Symlink("a"))], &[("l", Link("a/x"))]]);
    assert!(reason.ends_with("more than 40 symbolic links"), "{reason}");
    for (count, fine) in [(40, true), (41, false)] {
        let names: Vec<(String, Short)> = (0..count)
            .map(|at| (format!("s{at}"), Symlink(Box::leak(format!("s{}", at + 1).into_boxed_str()))))
            .chain([(format!("s{count}/x"), File)])
            .collect();
        let entries: Vec<(&str, Short)> = names.iter().map(|(path, short)| (path.as_str(), short.clone())).collect();
        let all = layers(&[&entries, &[("l", Link("s0/x"))]]);
        assert_eq!(run(&all).is_ok(), fine, "{count}");
    }
}

#[test]
fn one_layer_at_two_places_has_an_answer_for_each() {
    let (x, y) = (layer(0, &[("a/f", File)]), layer(1, &[("a", Dir(1))]));
    let answers = run(&[x.clone(), y, x]).unwrap();
    assert_eq!(answers[0].directories, [(b"a".to_vec(), stat(DEFAULT))]);
    assert_eq!(answers[2].directories, [(b"a".to_vec(), stat(1))]);
    assert_ne!(answers[0].key(), answers[2].key());
}

/// A layer of `count` implied directories below one another's neighbour, over `depth` layers that know some of them.
fn attack(count: usize, depth: usize) -> Vec<Layer> {
    let few = |number: usize| layer(number, &[("d", Dir(1)), ("other", Dir(2)), ("other/.wh.d", Whiteout)]);
    let mut all: Vec<Layer> = (0..depth).map(few).collect();
    let paths: Vec<String> = (0..count).map(|at| format!("d/{at}/f")).collect();
    let entries: Vec<(&str, Short)> = paths.iter().map(|path| (path.as_str(), File)).collect();
    all.push(layer(depth, &entries));
    all
}

#[test]
fn twenty_thousand_directories_over_three_thousand_layers_take_no_time() {
    let all = attack(20_000, 3_000);
    let started = Instant::now();
    let answers = run(&all).unwrap();
    // Looking for each in each layer takes minutes.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(answers[3_000].directories.len(), 20_001);
    assert_eq!(answers[3_000].directories[0], (b"d".to_vec(), stat(1)));
}

#[test]
fn a_chain_of_links_and_a_hidden_one_in_each_layer_take_no_time() {
    let names: Vec<String> = (0..20_000).map(|at| format!("l{at:05}")).collect();
    let mut chain: Vec<(&str, Short)> =
        names.windows(2).map(|pair| (pair[0].as_str(), Link(Box::leak(pair[1].clone().into_boxed_str())))).collect();
    chain.push((&names[names.len() - 1], Link("x")));
    let mut all = vec![layer(0, &[("x", File)])];
    all.extend((1..2_000).map(|number| layer(number, &[("d/e/f/g", File), ("x2", Link("x"))])));
    all.push(layer(2_000, &chain));
    let started = Instant::now();
    let answers = run(&all).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(answers[2_000].links.iter().all(|(_, holder)| holder.path == b"x" && holder.digest == digest(0)));
}

#[test]
fn only_what_is_asked_for_takes_memory() {
    let names: Vec<String> = (0..10_000).map(|at| format!("many/{at}")).collect();
    let many: Vec<(&str, Short)> =
        names.iter().map(|path| (path.as_str(), File)).chain([("many", Dir(1)), ("a", Dir(2))]).collect();
    let all = layers(&[&many, &[("a/f", File), ("l", Link("many/7"))]]);
    let kept = super::sweep::count_of_paths(&all);
    // The root, `a`, `l`, `many` and `many/7`.
    assert_eq!(kept, 5);
}

#[test]
fn an_abort_stops_it_at_once() {
    let halt = Halt::default();
    halt.abort();
    assert!(inherit(&attack(10, 10), &halt).unwrap_err().is_aborted());
    // And within its work, which is made long by its size.
    let (halt, all) = (Halt::default(), attack(200_000, 3_000));
    let (mut aborted, outcome) = (None, std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        let (halt, all, sender) = (&halt, &all, outcome.0);
        scope.spawn(move || {
            let ended = std::iter::repeat_with(|| inherit(all, halt)).find_map(Result::err);
            sender.send((Instant::now(), ended)).unwrap();
        });
        std::thread::sleep(Duration::from_millis(100));
        aborted = Some(Instant::now());
        halt.abort();
    });
    let (ended, error) = outcome.1.recv().unwrap();
    assert!(error.unwrap().is_aborted());
    assert!(ended.duration_since(aborted.unwrap()) < Duration::from_millis(250));
}
