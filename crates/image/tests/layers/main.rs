//! Odd and hostile layers, each with its exact outcome: this tree, or this error. One file for each topic; a victim
//! directory beside the tree is looked at after every one of them.

#![allow(unreachable_pub, reason = "nobody but this test sees its modules")]

mod advisories;
mod archive;
mod compression;
mod damage;
mod harness;
#[allow(clippy::print_stdout, reason = "a test that is skipped says why")]
mod hosts;
mod kinds;
mod limits;
mod links;
mod many_links;
mod names;
#[allow(clippy::print_stdout, reason = "a test that is skipped says why")]
mod odd_hosts;
mod overrides;
mod races;
mod replacing;
mod seeds;
mod shapes;
mod sparse;
mod whiteouts;
