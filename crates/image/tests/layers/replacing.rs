//! The same path twice, and things in the way (TRAPS 20).

use crate::{
    archive::{Header, archive},
    harness::{noted, unpacks},
};

#[test]
fn of_two_files_of_one_name_the_last_wins() {
    let made = archive().file("a", "first").put(Header::new(b'0', b"./a").mode(0o600).size(4), b"last");
    unpacks(&made.clone().end(), "f a 600 last");
    assert_eq!(noted(&made)["entry-replaced"], 1);
    unpacks(&archive().file("a", "a longer one").file("a", "b").file("/a", "").end(), "f a");
}

#[test]
fn a_directory_over_a_directory_changes_its_attributes_and_keeps_its_children() {
    unpacks(
        &archive().dir("d").file("d/f", "x").put(Header::new(b'5', b"d").mode(0o700).uid(7).mtime(9), b"").end(),
        "d d 700 7:0 @9\nf d/f x",
    );
}

#[test]
fn any_other_change_of_type_removes_and_makes_anew() {
    let dir = || archive().dir("x").file("x/f", "1").dir("x/e").file("x/e/g", "2");
    unpacks(&dir().file("x", "file").end(), "f x file");
    unpacks(&dir().symlink("x", "t").end(), "l x -> t");
    unpacks(&dir().put(Header::new(b'6', b"x"), b"").end(), "p x");
    unpacks(&archive().file("x", "1").dir("x").end(), "d x");
    unpacks(&archive().symlink("x", "/victim").dir("x").file("x/f", "").end(), "d x\nf x/f");
    unpacks(&archive().symlink("x", "t").file("x", "1").end(), "f x 1");
    unpacks(&archive().file("x", "1").symlink("x", "t").end(), "l x -> t");
    unpacks(&archive().put(Header::new(b'3', b"x").device(1, 3), b"").file("x", "1").end(), "f x 1");
}

#[test]
fn a_file_in_the_way_of_a_parent_becomes_a_directory() {
    let made = archive().file("a", "x").file("a/b/c", "y");
    unpacks(&made.clone().end(), "i a\ni a/b\nf a/b/c y");
    assert_eq!(noted(&made)["entry-replaced"], 1);
    unpacks(&archive().put(Header::new(b'6', b"a"), b"").dir("a/b").end(), "i a\nd a/b");
}

#[test]
fn a_directory_removed_and_made_again_is_a_new_one() {
    unpacks(&archive().dir("d").file("d/1", "").file("d", "").dir("d").file("d/2", "").end(), "d d\nf d/2");
    unpacks(&archive().file("d/e/1", "").file("d", "").file("d/e/2", "").end(), "i d\ni d/e\nf d/e/2");
}

#[test]
fn a_large_file_that_is_replaced_leaves_nothing_of_itself() {
    let large = vec![b'L'; 3_000_000];
    unpacks(&archive().file_bytes(b"f", &large).file("f", "small").end(), "f f small");
    unpacks(&archive().file("f", "small").file_bytes(b"f", &large).end(), "f f 3000000 bytes");
}

#[test]
fn a_path_may_come_and_go_many_times() {
    let mut made = archive();
    for n in 0..300 {
        made = made.file("d/f", &n.to_string()).file("d", "in the way");
    }
    unpacks(&made.file("d/f", "end").end(), "i d\nf d/f end");
}
