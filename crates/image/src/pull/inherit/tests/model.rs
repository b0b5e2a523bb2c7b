//! Random layers, answered by merging whole layers anew for each question.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Layer, Short, digest, layer, run, stat};

#[derive(Debug, Clone, PartialEq)]
enum Thing {
    Dir(u32, Option<&'static str>),
    /// Layer and path of the file, and the target if it is a symbolic link.
    File(usize, String, Option<&'static str>),
    Gone,
}

type Tree = BTreeMap<String, Thing>;

fn below(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn hidden(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap();
    format!("{}{}", below(parent(path)), name.strip_prefix(".wh.").unwrap_or(name))
}

fn entries(layer: &Layer) -> impl Iterator<Item = (String, &Short)> {
    layer.entries.iter().map(|(path, short)| (String::from_utf8(path.clone()).unwrap(), short))
}

/// What the layers are together. `links` are the answers of those before the last; the last one's are not needed.
fn merge(layers: &[Layer], links: &[BTreeMap<String, Thing>]) -> Tree {
    let mut tree = Tree::new();
    for (number, layer) in layers.iter().enumerate() {
        let keep = |tree: &mut Tree, hides: &dyn Fn(&str) -> bool| tree.retain(|path, _| !hides(path));
        for (path, short) in entries(layer) {
            match short {
                Short::Whiteout => {
                    let hidden = hidden(&path);
                    keep(&mut tree, &|other| other == hidden || other.starts_with(&below(&hidden)));
                }
                Short::OpaqueDir(_) | Short::OpaqueImplied => {
                    keep(&mut tree, &|other| other != path && other.starts_with(&below(&path)));
                    if let Some(Thing::Dir(_, beneath)) = tree.get_mut(&path) {
                        *beneath = None;
                    }
                }
                _ => {}
            }
        }
        for (path, short) in entries(layer) {
            let there = tree.get(&path).cloned();
            let thing = match short {
                Short::Dir(uid) | Short::OpaqueDir(uid) => Thing::Dir(*uid, None),
                Short::Implied | Short::OpaqueImplied => match there {
                    Some(Thing::Dir(uid, beneath)) => Thing::Dir(uid, beneath),
                    Some(Thing::File(_, _, Some(target))) if *short == Short::Implied => Thing::Dir(0, Some(target)),
                    _ => Thing::Dir(0, None),
                },
                Short::File => Thing::File(number, path.clone(), None),
                Short::Symlink(target) => Thing::File(number, path.clone(), Some(target)),
                Short::Link(_) => match links.get(number).and_then(|links| links.get(&path)) {
                    Some(thing) => thing.clone(),
                    // A link of the topmost layer is no way to anywhere.
                    None => Thing::Gone,
                },
                Short::Whiteout => {
                    let (hidden, parent) = (hidden(&path), tree.get(parent(&path)));
                    if matches!(parent, Some(Thing::Dir(_, Some(_)))) && !tree.contains_key(&hidden) {
                        tree.insert(hidden, Thing::Gone);
                    }
                    continue;
                }
            };
            if !matches!(thing, Thing::Dir(..)) {
                tree.retain(|other, _| !other.starts_with(&below(&path)));
            }
            tree.insert(path, thing);
        }
    }
    tree
}

/// Where a target leads; the last name is not followed.
fn walk(tree: &Tree, target: &str) -> Option<Thing> {
    let mut names: Vec<String> = target.split('/').filter(|name| !name.is_empty()).rev().map(str::to_owned).collect();
    let (mut at, mut followed) = (String::new(), 0);
    let mut follow = |names: &mut Vec<String>, from: &str, target: &str| {
        followed += 1;
        names.extend(target.split('/').filter(|name| !name.is_empty()).rev().map(str::to_owned));
        (followed <= 40).then(|| if target.starts_with('/') { String::new() } else { from.to_owned() })
    };
    while let Some(name) = names.pop() {
        if name == ".." {
            at = parent(&at).to_owned();
            continue;
        }
        let path = format!("{}{name}", below(&at));
        match (tree.get(&path), tree.get(&at)) {
            (None, Some(Thing::Dir(_, Some(target)))) => {
                names.push(name);
                let from = parent(&at).to_owned();
                at = follow(&mut names, &from, target)?;
            }
            (Some(Thing::Dir(..)), _) => at = path,
            (Some(file @ Thing::File(..)), _) if names.is_empty() => return Some(file.clone()),
            (Some(Thing::File(_, _, Some(target))), _) => {
                let from = at.clone();
                at = follow(&mut names, &from, target)?;
            }
            _ => return None,
        }
    }
    None
}

/// Directories' owners and links' holders of each layer; `None` where a link leads nowhere.
#[allow(clippy::type_complexity, reason = "two lists for each layer")]
fn naive(layers: &[Layer]) -> Option<Vec<(Vec<(String, u32)>, Vec<(String, usize, String)>)>> {
    let mut answers = Vec::new();
    let mut links: Vec<BTreeMap<String, Thing>> = Vec::new();
    for number in 0..layers.len() {
        let tree = merge(&layers[..=number], &links);
        let mut directories = Vec::new();
        let mut own = BTreeMap::new();
        for (path, short) in entries(&layers[number]) {
            match short {
                Short::Implied | Short::OpaqueImplied => {
                    let Some(Thing::Dir(uid, _)) = tree.get(&path) else { panic!("{path} is gone") };
                    directories.push((path, *uid));
                }
                Short::Link(target) => {
                    own.insert(path, walk(&tree, target)?);
                }
                _ => {}
            }
        }
        let held = own.iter().map(|(path, thing)| match thing {
            Thing::File(layer, at, _) => (path.clone(), *layer, at.clone()),
            _ => unreachable!("a walk ends at a file"),
        });
        answers.push((directories, held.collect()));
        links.push(own);
    }
    Some(answers)
}

fn short(links: bool) -> impl Strategy<Value = Short> {
    let target = prop::sample::select(vec!["a", "a/b", "b", "/b/a", "../a", "b/../a", "a/a", "c"]);
    let link = prop::sample::select(vec!["a", "b", "a/a", "a/b", "b/a", "c/a", "a/b/a", "c"]);
    prop_oneof![
        3 => (1u32..9).prop_map(Short::Dir),
        1 => (1u32..9).prop_map(Short::OpaqueDir),
        3 => Just(Short::File),
        2 => target.prop_map(Short::Symlink),
        1 => Just(Short::Whiteout),
        if links { 2 } else { 0 } => link.prop_map(Short::Link),
    ]
}

/// A layer as the planner leaves it: nothing below a file, no whiteout beside what it hides.
fn random_layer(links: bool) -> impl Strategy<Value = Vec<(String, Short)>> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let path = prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"));
    prop::collection::btree_map(path, short(links), 1..6).prop_map(|entries| {
        let mut kept: BTreeMap<String, Short> = BTreeMap::new();
        for (path, short) in entries {
            let blocked = kept.iter().any(|(above, short)| {
                path.starts_with(&below(above)) && !matches!(short, Short::Dir(_) | Short::OpaqueDir(_))
            });
            if !blocked {
                kept.insert(path, short);
            }
        }
        let named = |(path, short): (String, Short)| match short {
            Short::Whiteout => {
                (format!("{}.wh.{}", below(parent(&path)), hidden(&path).rsplit('/').next().unwrap()), short)
            }
            short => (path, short),
        };
        kept.into_iter().map(named).collect()
    })
}

fn built(all: Vec<Vec<(String, Short)>>) -> Vec<Layer> {
    let one = |(number, entries): (usize, Vec<(String, Short)>)| {
        let entries: Vec<(&str, Short)> = entries.iter().map(|(path, short)| (path.as_str(), short.clone())).collect();
        layer(number, &entries)
    };
    all.into_iter().enumerate().map(one).collect()
}

fn agrees(layers: &[Layer]) -> Result<(), TestCaseError> {
    let (expected, got) = (naive(layers), run(layers));
    let Some(expected) = expected else {
        prop_assert!(got.is_err(), "a link leads nowhere, and {:?}", got);
        return Ok(());
    };
    let got = got.map_err(|error| TestCaseError::fail(error.to_string()))?;
    for (number, ((directories, links), got)) in expected.into_iter().zip(got).enumerate() {
        let directories: Vec<_> = directories.into_iter().map(|(path, uid)| (path.into_bytes(), stat(uid))).collect();
        prop_assert_eq!(directories, got.directories, "directories of layer {}", number);
        let links: Vec<_> =
            links.into_iter().map(|(path, layer, at)| (path.into_bytes(), digest(layer), at.into_bytes())).collect();
        let got: Vec<_> = got.links.into_iter().map(|(path, holder)| (path, holder.digest, holder.path)).collect();
        prop_assert_eq!(links, got, "links of layer {}", number);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn directories_are_those_of_whole_merges(all in prop::collection::vec(random_layer(false), 1..6)) {
        agrees(&built(all))?;
    }

    #[test]
    fn links_are_those_of_whole_merges(base in random_layer(false), all in prop::collection::vec(random_layer(true), 1..4)) {
        // Links between links of one layer have an order of their own, which table tests look at.
        let all = built([vec![base], all].concat());
        let own = |layer: &Layer| {
            let links: Vec<_> = entries(layer).filter(|(_, short)| matches!(short, Short::Link(_))).collect();
            links.len() < 2 && links.iter().all(|(path, short)| !matches!(short, Short::Link(target) if target == path))
        };
        prop_assume!(all.iter().all(own));
        agrees(&all)?;
    }
}
