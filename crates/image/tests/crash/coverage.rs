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

/// Where the sources have steps: file, line, text.
fn steps(root: &Path) -> Vec<(String, usize, String)> {
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
            for (at, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                if line.trim_start().starts_with("step(\"") {
                    found.push((file.clone(), at + 1, line.trim().to_owned()));
                }
            }
        }
    }
    found
}
