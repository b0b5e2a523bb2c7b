//! Entries → steps, as text, without a disk.

use super::{Planner, Step, Tree};
use crate::layer::{
    halt::Halt,
    limits::Limits,
    spill::SpillHome,
    tar::{EntryKind, Member, Timestamp},
};

/// An entry as `kind path[ target]`: f, d, l (symbolic link), h (hard link), p, ? (another type).
fn member(text: &str) -> Member<'_> {
    let mut words = text.split(' ');
    let kind = match words.next().unwrap() {
        "f" => EntryKind::File,
        "d" => EntryKind::Directory,
        "l" => EntryKind::Symlink,
        "h" => EntryKind::HardLink,
        "p" => EntryKind::Fifo,
        _ => EntryKind::Other(b'V'),
    };
    Member {
        path: words.next().unwrap().as_bytes(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        link: words.next().unwrap_or("").as_bytes(),
        device: (0, 0),
        size: 0,
        stored: 0,
        position: 0,
        segments: &[],
        xattrs: &[],
    }
}

fn text(step: &Step, tree: &Tree) -> String {
    let show = |path: Vec<u8>| if path.is_empty() { ".".to_owned() } else { String::from_utf8(path).unwrap() };
    match step {
        Step::Remove { parent, name, directory } => {
            let path = [tree.path(*parent), name.clone()].join(&b'/');
            let what = if *directory { "remove all" } else { "remove" };
            format!("{what} {}", String::from_utf8(path).unwrap().trim_start_matches('/'))
        }
        Step::MakeDirectory(entry) => format!("mkdir {}", show(tree.path(*entry))),
        Step::DescribeDirectory(entry) => format!("describe {}", show(tree.path(*entry))),
        Step::MakeFile { entry, content } => {
            let content = String::from_utf8_lossy(content);
            format!("make {} {content}", show(tree.path(*entry))).trim_end().to_owned()
        }
        Step::Link { entry, target } => format!("link {} {}", show(tree.path(*entry)), show(tree.path(*target))),
    }
}

/// The steps of the last entry, or the error's code. Entries are parted by `;`, and `end` is the end of the layer.
fn last_steps(entries: &str) -> String {
    let mut planner = Planner::new(Limits::default(), &SpillHome::default(), Halt::default()).unwrap();
    let mut steps = Vec::new();
    for entry in entries.split("; ") {
        steps.clear();
        let planned = match entry {
            "end" => planner.finish_links(&mut steps).and_then(|_| {
                planner.whiteouts().into_iter().try_for_each(|id| planner.absorb_whiteout(id, &mut steps))
            }),
            entry => planner.place(&member(entry), &mut steps).map(|_| ()),
        };
        if let Err(error) = planned {
            return error.code().to_owned();
        }
    }
    steps.iter().map(|step| text(step, &planner.tree)).collect::<Vec<_>>().join(", ")
}

#[test]
fn an_entry_and_what_is_known_of_the_tree_give_the_steps() {
    for (entries, steps) in [
        ("f a", "make a"),
        ("d a", "mkdir a, describe a"),
        ("d .", "describe ."),
        ("d a; d a", "describe a"),
        ("f a/b/c", "mkdir a, mkdir a/b, make a/b/c"),
        ("d a; f a/b", "make a/b"),
        ("l a /t", "make a /t"),
        ("p a", "make a"),
        ("? a", ""),
        ("f .wh..wh.plnk/a", ""),
        ("f a; f a", "remove a, make a"),
        ("d a; f a", "remove all a, make a"),
        ("f a; d a", "remove a, mkdir a, describe a"),
        ("f a; f a/b", "remove a, mkdir a, make a/b"),
        ("d u; l l u; f l/a", "make u/a"),
        ("l l u/v; f l/a", "mkdir u, mkdir u/v, make u/v/a"),
        ("d u; l l u; d l", "remove l, mkdir l, describe l"),
        ("f a; h b a", "link b a"),
        ("f a; h d/b /a", "mkdir d, link d/b a"),
        ("f a; h a a", ""),
        ("h b a", ""),
        ("h b a; f a; end", "link b a"),
        ("h b a; end", "make b"),
        ("f b; h b a; end", "remove b, make b"),
        ("f x; f .wh.x; end", "remove .wh.x"),
        ("f .wh.x; d x; end", "remove .wh.x, make x/.wh..wh..opq"),
        ("f .wh.x; end", ""),
    ] {
        assert_eq!(last_steps(entries), steps, "{entries}");
    }
}

#[test]
fn what_can_not_be_planned_is_an_error() {
    for entries in [
        "f .",
        "l a ",
        "h a .",
        "d d; h a d",
        "d d; f d/a; h d d/a",
        "f a; h a/b a",
        "l a a; f a/b",
        "f .wh.",
        "f .wh.d/a",
    ] {
        assert_eq!(last_steps(entries), "ERR_EXTRACTION", "{entries}");
    }
    assert_eq!(last_steps(&format!("d {}", "a/".repeat(129))), "ERR_LIMIT");
}

/// Places entries of this kind with these targets until one is refused; answers with how many were not, at most `most`.
fn taken(kind: EntryKind, target: &[u8], most: usize) -> usize {
    let mut planner = Planner::new(Limits::default(), &SpillHome::default(), Halt::default()).unwrap();
    (0..most)
        .take_while(|n| {
            let path = n.to_string();
            let member = Member { kind, path: path.as_bytes(), link: target, ..member("f x") };
            planner
                .place(&member, &mut Vec::new())
                .inspect_err(|error| assert_eq!(error.code(), "ERR_EXTRACTION"))
                .is_ok()
        })
        .count()
}

#[test]
fn hard_links_that_wait_are_bounded_in_memory_and_symbolic_links_on_disk_alone() {
    let target = ["t"; 120].join("/").into_bytes();
    let waiting = taken(EntryKind::HardLink, &target, 100_000);
    assert!((50_000..60_000).contains(&waiting), "{waiting}");
    assert_eq!(taken(EntryKind::Symlink, &target, 100_000), 100_000);
}
