//! A process that pulls is killed before each step with which it changes the disk, and somebody else goes on.
//!
//! The steps are not listed here: a run that is not killed tells them, each is then the last of a run of its own, and the
//! sources are searched for steps that no run passed. What is found is the table in `docs/crash-safety.md`; with
//! `UPDATE_CRASH_TABLE=1` the tests write it, else they fail where it differs.

#![allow(dead_code, unreachable_pub, reason = "what is shared with other tests has more than is used here")]

#[path = "../layers/archive.rs"]
mod archive;
mod child;
mod coverage;
mod golden;
mod look;
mod scenario;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod world;

use scenario::Scenario;

/// The kinds of pull, by the name of their table.
fn scenarios() -> [Scenario; 12] {
    let of = |id, image| Scenario { id, image, ..Scenario::default() };
    [
        of("first", "one"),
        Scenario { there: Some("one"), force: true, ..of("force", "one") },
        Scenario { there: Some("one"), ..of("upper", "two") },
        Scenario { there: Some("left"), ..of("beside", "right") },
        of("twice", "twice"),
        Scenario { there: Some("one"), damaged_trees: true, force: true, ..of("exchange", "one") },
        Scenario { there: Some("both"), damaged_trees: true, original: true, ..of("original", "both") },
        Scenario { leftovers: true, ..of("sweep", "one") },
        Scenario { damaged: true, ..of("damaged", "one") },
        Scenario { drops_blobs: true, ..of("dropped", "one") },
        Scenario { durable: true, ..of("durable", "one") },
        Scenario { parallel: true, ..of("parallel", "three") },
    ]
}

fn holds(id: &str) {
    scenarios().into_iter().find(|scenario| scenario.id == id).expect("a scenario of this name").holds();
}

#[test]
fn a_first_pull_may_end_anywhere() {
    holds("first");
}

#[test]
fn a_forced_pull_over_a_layer_that_is_there_may_end_anywhere() {
    holds("force");
}

#[test]
fn a_pull_of_a_layer_whose_base_has_the_values_of_another_image_may_end_anywhere() {
    holds("beside");
}

#[test]
fn a_pull_of_a_layer_at_two_places_may_end_anywhere() {
    holds("twice");
}

#[test]
fn a_forced_pull_that_exchanges_a_damaged_tree_may_end_anywhere() {
    holds("exchange");
}

#[test]
fn a_pull_over_damaged_trees_that_the_original_made_may_end_anywhere() {
    holds("original");
}

#[test]
fn a_pull_of_a_layer_that_depends_on_the_one_below_may_end_anywhere() {
    holds("upper");
}

#[test]
fn a_pull_that_sweeps_what_a_crash_left_may_end_anywhere() {
    holds("sweep");
}

#[test]
fn a_pull_whose_blob_is_damaged_on_the_way_may_end_anywhere() {
    holds("damaged");
}

#[test]
fn a_pull_that_drops_its_blobs_may_end_anywhere() {
    holds("dropped");
}

#[test]
fn a_pull_that_waits_for_the_disk_may_end_anywhere() {
    holds("durable");
}

#[test]
fn a_pull_of_three_layers_at_once_may_end_anywhere() {
    holds("parallel");
}
