//! Symbolic and hard links (TRAPS 21).

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use microsandbox_image_core::layer::Limits;

use crate::{
    archive::{Header, archive},
    harness::{noted, refuses, run, unpacks},
};

#[test]
fn a_symbolic_link_keeps_its_target_word_by_word() {
    for target in ["x", "/etc/passwd", "../../../../etc/passwd", "a//b/./c", "dangling\nline", ".."] {
        unpacks(&archive().symlink("l", target).end(), &format!("l l -> {target}").replace('\n', "\n"));
    }
}

#[test]
fn a_symbolic_link_has_its_own_owner_and_time_and_all_permissions() {
    let header = Header::new(b'2', b"l").link(b"t").mode(0o600).uid(5).gid(6).mtime(77);
    unpacks(&archive().put(header, b"").end(), "l l 5:6 @77 -> t");
}

#[test]
fn a_symbolic_link_without_a_target_is_refused() {
    refuses(&archive().put(Header::new(b'2', b"l"), b"").end(), "ERR_EXTRACTION", "target");
}

#[test]
fn a_target_longer_than_linux_allows_is_refused() {
    let target = "t".repeat(4096);
    refuses(&archive().long_link(target.as_bytes()).symlink("l", "x").end(), "ERR_EXTRACTION", "target");
    let target = &target[..4095];
    unpacks_size(target);
}

fn unpacks_size(target: &str) {
    let outcome = run(&archive().long_link(target.as_bytes()).symlink("l", "x").end().0, Default::default());
    outcome.unpacked.unwrap();
    assert_eq!(std::fs::read(outcome.root.join("l")).unwrap(), target.as_bytes());
}

#[test]
fn a_hard_link_is_one_more_name_of_the_file() {
    unpacks(&archive().file("a", "x").link("b", "a").link("d/c", "/a").end(), "f a x\nh b = a\ni d\nh d/c = a");
    unpacks(&archive().file("a", "x").link("b", "./d/../a").end(), "f a x\nh b = a");
    unpacks(&archive().file("a", "x").link("b", "a").link("c", "b").end(), "f a x\nh b = a\nh c = a");
}

#[test]
fn a_hard_links_own_header_is_ignored() {
    let header = Header::new(b'1', b"b").link(b"a").mode(0o4777).uid(9).gid(9).mtime(1).size(700);
    unpacks(&archive().file("a", "x").put(header, b"").file("c", "").end(), "f a x\nh b = a\nf c");
}

#[test]
fn a_hard_link_may_come_before_its_target() {
    unpacks(&archive().link("b", "a").file("a", "x").end(), "f a x\nh b = a");
    unpacks(&archive().link("d/b", "e/a").file("e/a", "x").end(), "i d\nf d/b x\ni e\nh e/a = d/b");
    unpacks(&archive().link("c", "b").link("b", "a").file("a", "x").end(), "f a x\nh b = a\nh c = a");
    unpacks(&archive().link("b", "a").link("c", "b").file("a", "x").end(), "f a x\nh b = a\nh c = a");
}

#[test]
fn a_hard_link_to_a_symbolic_link_names_the_link_itself() {
    unpacks(&archive().file("a", "x").symlink("l", "a").link("m", "l").end(), "f a x\nl l -> a\nh m = l");
    unpacks(&archive().symlink("l", "/etc/shadow").link("m", "l").end(), "l l -> /etc/shadow\nh m = l");
}

#[test]
fn a_hard_links_parents_are_followed_inside_the_root() {
    unpacks(
        &archive().dir("usr").file("usr/a", "x").symlink("u", "usr").link("u/b", "u/a").end(),
        "l u -> usr\nd usr\nf usr/a x\nh usr/b = usr/a",
    );
}

#[test]
fn a_hard_link_never_reaches_a_file_of_the_host() {
    for target in ["/etc/passwd", "../victim/file", "../../../../../../etc/passwd"] {
        let made = archive().link("l", target).end();
        let outcome = run(&made.0, Default::default());
        let unpacked = outcome.unpacked.unwrap();
        assert_eq!(std::fs::metadata(outcome.root.join("l")).unwrap().len(), 0);
        assert_eq!(unpacked.lower_links.len(), 1);
        assert!(!unpacked.lower_links[0].target.starts_with(b".."));
    }
    // Through a symbolic link that would leave the root.
    let outcome = run(&archive().symlink("s", "../victim").link("l", "s/file").end().0, Default::default());
    assert_eq!(outcome.unpacked.unwrap().lower_links.len(), 1);
}

#[test]
fn a_hard_link_to_a_file_of_a_lower_layer_is_told_and_has_a_stand_in() {
    let made = archive().dir("usr").link("usr/new", "/usr/lib/../bin/old").end();
    let unpacked = run(&made.0, Default::default()).unpacked.unwrap();
    assert_eq!(unpacked.lower_links[0].path, b"usr/new");
    assert_eq!(unpacked.lower_links[0].target, b"usr/bin/old");
    assert_eq!(noted(&made)["link-to-lower-layer"], 1);
    unpacks(&made, "d usr\nf usr/new @0");
}

#[test]
fn a_hard_link_to_itself_does_no_harm() {
    unpacks(&archive().file("a", "x").link("a", "a").end(), "f a x");
    unpacks(&archive().file("a", "x").link("b", "a").link("a", "b").end(), "f a x\nh b = a");
    unpacks(&archive().file("a", "x").link("./a", "/a").end(), "f a x");
}

#[test]
fn a_hard_link_to_a_directory_is_refused() {
    refuses(&archive().dir("d").link("l", "d").end(), "ERR_EXTRACTION", "directory");
    refuses(&archive().link("l", "/").end(), "ERR_EXTRACTION", "directory");
    refuses(&archive().link("l", "d").dir("d").end(), "ERR_EXTRACTION", "directory");
}

#[test]
fn a_hard_link_to_a_whiteout_is_refused() {
    // A whiteout is no file: the index would know one name of an inode that has two.
    for target in [".wh.x", ".wh..wh..opq"] {
        refuses(&archive().file(target, "").link("l", target).end(), "ERR_EXTRACTION", "hard link to a whiteout");
        refuses(&archive().link("l", target).file(target, "").end(), "ERR_EXTRACTION", "hard link to a whiteout");
    }
}

#[test]
fn a_hard_link_can_not_remove_its_own_target() {
    refuses(&archive().dir("d").file("d/a", "x").link("d", "d/a").end(), "ERR_EXTRACTION", "target");
    refuses(&archive().file("a", "x").link("a/b", "a").end(), "ERR_EXTRACTION", "target");
}

#[test]
fn a_hard_link_replaces_what_has_its_name() {
    unpacks(&archive().file("a", "x").file("b", "y").link("b", "a").end(), "f a x\nh b = a");
    unpacks(&archive().file("a", "x").dir("b").file("b/c", "").link("b", "a").end(), "f a x\nh b = a");
}

#[test]
fn a_file_that_replaces_a_name_of_an_inode_leaves_the_other_names() {
    unpacks(&archive().file("a", "old").link("b", "a").file("a", "new").end(), "f a new\nf b old");
    unpacks(&archive().file("a", "old").link("b", "a").file("b", "new").end(), "f a old\nf b new");
}

#[test]
fn of_two_waiting_hard_links_of_one_name_the_last_wins() {
    unpacks(&archive().link("l", "a").link("l", "b").file("a", "1").file("b", "2").end(), "f a 1\nf b 2\nh l = b");
}

#[test]
fn an_entry_after_a_waiting_hard_link_takes_its_place() {
    unpacks(&archive().link("l", "a").file("l", "mine").file("a", "1").end(), "f a 1\nf l mine");
}

#[test]
fn a_chain_of_hard_links_to_later_entries_takes_no_quadratic_time() {
    // Every other link in the reverse order, so that no direction finds more than a few at a time.
    let count = 3_000;
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|n| (n * 7919) % count);
    let mut made = archive();
    for n in order {
        made = made.link(&format!("l{n}"), &format!("l{}", n + 1));
    }
    let started = std::time::Instant::now();
    refuses(&made.file(&format!("l{count}"), "x").end(), "ERR_EXTRACTION", "chain");
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn links_between_many_directories_find_their_files_written() {
    let mut made = archive();
    let mut tree = Vec::new();
    for n in 100..400 {
        made = made.file(&format!("s/{n}"), &n.to_string()).link(&format!("d{n}/f"), &format!("s/{n}"));
        tree.extend([format!("i d{n}"), format!("f d{n}/f {n}"), format!("h s/{n} = d{n}/f")]);
    }
    tree.push("i s".to_owned());
    tree.sort_by_key(|line| line[2..].split(' ').next().unwrap().to_owned());
    unpacks(&made.end(), &tree.join("\n"));
}

#[test]
fn links_hold_in_a_directory_so_large_that_several_writers_fill_it() {
    let mut archive = archive().dir("large").dir("beside");
    for at in 0..4000 {
        archive = archive
            .file(&format!("large/{at}"), &format!("content {at}"))
            .link(&format!("beside/{at}"), &format!("large/{at}"))
            .link(&format!("large/{at}.again"), &format!("beside/{at}"));
    }
    // Replaced after their links were made: the links keep the old content.
    for at in (0..4000).step_by(500) {
        archive = archive.file(&format!("large/{at}"), "replaced");
    }
    let outcome = run(&archive.end().0, Limits::default());
    outcome.unpacked.as_ref().unwrap();
    let root = &outcome.root;
    for at in 0..4000 {
        let [file, beside, again] =
            [format!("large/{at}"), format!("beside/{at}"), format!("large/{at}.again")].map(|path| root.join(path));
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&beside), inode(&again), "{at}");
        assert_eq!(fs::read_to_string(&beside).unwrap(), format!("content {at}"));
        let replaced = at % 500 == 0;
        assert_eq!(inode(&file) == inode(&beside), !replaced, "{at}");
        let expected = if replaced { "replaced".to_owned() } else { format!("content {at}") };
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    }
}
