//! Steps that no scenario passes: one that is added to the sources is killed at, or told here.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{child, scenarios, world::World};

/// Steps that no scenario has, as `file: text of the line and of the next`.
const NOT_PASSED: [&str; 5] = [
    // More names of one file than the host allows, 65,000 on ext4.
    "layer/apply/links.rs: step(\"create\", FILE); let made = openat(&*to.0, &*to.1, CREATE, Mode::RUSR | Mode::WUSR).map_err(broke)?;",
    "layer/apply/links.rs: step(\"length\", FILE); ftruncate(&made, size).map_err(broke)?;",
    "layer/apply/links.rs: step(\"time\", FILE); futimens(&made, &Timestamps { last_access: time, last_modification: time }).map_err(broke)",
    "layer/apply/links.rs: step(\"attribute\", FILE); fsetxattr(to, name, &value[..length], XattrFlags::empty())?;",
    // Real symlinks: macOS alone has them.
    "layer/apply/writers.rs: step(\"create\", FILE); let link = symlink::make(&meta.directory, &meta.name, &content);",
];

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
        if passed.contains(&place) == NOT_PASSED.contains(&text.as_str()) {
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
const WITHOUT: [&str; 13] = [
    // After a failure, what it left is taken away; a process killed there leaves what any other step leaves.
    "fs/publish.rs: let _ = fs::remove_file(beside);",
    // The step is where it is called.
    "fs/publish.rs: publish_file_with(path, |file| file.write_all(bytes))",
    "fs/publish.rs: publish_with_mode(path, 0o600, |file| file.write_all(bytes))",
    "layer/sidecar.rs: Held::Bytes(bytes) => to.write_all(bytes),",
    "layer/sidecar.rs: to.write_all(&piece[..count])?;",
    "layer/apply/symlink.rs: symlinkat(target, directory.as_fd(), name)?;",
    // Of a copy's content: one step for all of it.
    "store/tree/file.rs: ftruncate(to, size).map_err(failed)",
    // A file without a name, in a tree that is being made; where the host has none, its name lasts for a moment.
    "layer/spill.rs: match openat(&directory, &name, ACCESS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, owner) {",
    "layer/spill.rs: unlinkat(&directory, &name, AtFlags::empty())?;",
    // The second try to keep the same attribute.
    "layer/apply/xattr.rs: let note = match fsetxattr(file, [WRITTEN_DOWN, name].concat(), value, XattrFlags::empty()) {",
    // Flags only; the call that has them has a step.
    "layer/apply/writers.rs: OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);",
    "store/tree/file.rs: OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);",
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
    for (file, text) in sources(root).into_iter() {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("step(\"")) {
            found.push((file.clone(), at + 1, format!("{line} {}", lines[at + 1])));
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
