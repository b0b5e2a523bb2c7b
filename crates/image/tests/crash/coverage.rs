//! Steps that no scenario passes: one that is added to the sources is killed at, or told here.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{child, scenarios, world::World};

/// Steps behind a failure that no scenario has, as `file: text of the line`.
const AFTER_FAILURES: [&str; 1] = ["pull/stand_in.rs: step(\"remove\", &beside);"];

#[test]
fn every_step_in_the_sources_is_passed_by_some_scenario() {
    let world = World::new();
    let mut passed = BTreeSet::new();
    for scenario in scenarios() {
        let temp = scenario.prepare(&world);
        let steps = child::record(&temp.path().join("cache"), &world.reference(scenario.image), &scenario);
        passed.extend(steps.into_iter().map(|step| step.place));
    }
    let mut missed = Vec::new();
    let mut count = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (file, line, text) in steps(&root) {
        count += 1;
        let place = format!("crates/image/src/{file}:{line}");
        let text = format!("{file}: {text}");
        if passed.contains(&place) == AFTER_FAILURES.contains(&text.as_str()) {
            missed.push(format!("{place}: {text}"));
        }
    }
    assert!(count > 40, "{count} steps were found in the sources");
    assert_eq!(missed, Vec::<String>::new());
}

/// Calls that change the disk, or take a lock.
const CHANGES: [&str; 16] = [
    "fs::rename(",
    "remove_file(",
    "renameat(",
    "renameat_with(",
    "unlinkat(",
    "linkat(",
    "mkdirat(",
    ".create_new(true)",
    ".create(true)",
    "OFlags::CREATE",
    "DirBuilder::new()",
    "fs::write(",
    ".write_all(",
    "ftruncate(",
    "fsetxattr(",
    ".try_lock_exclusive(",
];

/// Changes without a step, as `file: text of the line`.
const WITHOUT: [&str; 5] = [
    // After a failure, what it left is taken away; a process killed there leaves what any other step leaves.
    "fs/publish.rs: let _ = fs::remove_file(beside);",
    // A copy's attributes: one step for all of them.
    "pull/stand_in.rs: fsetxattr(to, name, &value[..length], XattrFlags::empty())?;",
    // The second try to keep the same attribute.
    "layer/apply/xattr.rs: let note = match fsetxattr(file, [WRITTEN_DOWN, name].concat(), value, XattrFlags::empty()) {",
    // Flags only; the call that has them has a step.
    "layer/apply/writers.rs: OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);",
    "layer/probe.rs: let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;",
];

#[test]
fn whatever_changes_the_disk_has_a_step_before_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut without = Vec::new();
    // The registry's part writes to sockets and pipes only.
    let writes = |(file, text): &(String, String)| {
        let only_tests = text.contains("#[test]") && !text.contains("mod tests {");
        !file.starts_with("registry/") && !file.ends_with("tests.rs") && !only_tests
    };
    for (file, text) in sources(&root).into_iter().filter(writes) {
        let lines: Vec<&str> = text.lines().take_while(|line| !line.starts_with("mod tests")).collect();
        for (at, line) in lines.iter().enumerate() {
            let changes = CHANGES.iter().any(|call| line.contains(call)) && !line.trim_start().starts_with("//");
            let has_step = lines[at.saturating_sub(6)..at].iter().any(|line| line.contains("step(\""));
            if changes && !has_step {
                without.push(format!("{file}: {}", line.trim()));
            }
        }
    }
    without.retain(|found| !WITHOUT.contains(&found.as_str()));
    assert_eq!(without, Vec::<String>::new());
}

/// Where the sources have steps: file, line, text.
fn steps(root: &Path) -> Vec<(String, usize, String)> {
    let mut found = Vec::new();
    for (file, text) in sources(root) {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("step(\"")) {
            found.push((file.clone(), at + 1, line.trim().to_owned()));
        }
    }
    found
}

/// All sources: path below `src`, text.
fn sources(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((file, fs::read_to_string(&path).unwrap()));
        }
    }
    found
}
