//! The process that is killed: this test's own program, started again to pull once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use microsandbox_image_core::fail_points;

use crate::{scenario::Scenario, world::pull};

const ORDERS: &str = "CRASH_CHILD";
const DEADLINE: Duration = Duration::from_secs(60);

/// A step that a pull passed, and how often.
#[derive(Debug, Clone)]
pub struct Passed {
    pub name: String,
    pub count: usize,
    pub place: String,
}

#[test]
#[ignore = "a process of its own, which the other tests start"]
fn pulls() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Vec<&str> = orders.split('\n').collect();
    let &[cache, reference, flags, list, step, count] = &orders[..] else { panic!("{orders:?}") };
    let is = |flag| flags.split(' ').any(|word| word == flag);
    let how = Scenario {
        force: is("force"),
        parallel: is("parallel"),
        drops_blobs: is("drops-blobs"),
        durable: is("durable"),
        ..Scenario::default()
    };
    if step.is_empty() {
        fail_points::record();
    } else {
        fail_points::end_at(step, count.parse().unwrap());
    }
    let outcome = pull(Path::new(cache), reference, &how);
    let passed = fail_points::record();
    let lines: Vec<String> =
        passed.iter().map(|step| format!("{}\t{}\t{}", step.name, step.count, step.place)).collect();
    fs::write(list, lines.join("\n")).unwrap();
    outcome.unwrap();
}

/// Pulls in a process of its own, which is killed at the `count`th passing of a step.
pub fn end_at(cache: &Path, reference: &str, how: &Scenario, step: &str, count: usize) -> ExitStatus {
    start(cache, reference, how, &cache.with_extension("list"), step, count)
}

/// Pulls in a process of its own and tells the steps in the order in which they were passed first.
pub fn record(cache: &Path, reference: &str, how: &Scenario) -> Vec<Passed> {
    let list: PathBuf = cache.with_extension("list");
    start(cache, reference, how, &list, "", 0);
    let text = fs::read_to_string(list).unwrap();
    let passed = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        Passed { name: fields[0].to_owned(), count: fields[1].parse().unwrap(), place: fields[2].to_owned() }
    });
    passed.collect()
}

fn start(cache: &Path, reference: &str, how: &Scenario, list: &Path, step: &str, count: usize) -> ExitStatus {
    let paths = [cache, list].map(|path| path.to_str().unwrap().to_owned());
    let flags =
        [(how.force, "force"), (how.parallel, "parallel"), (how.drops_blobs, "drops-blobs"), (how.durable, "durable")];
    let flags: Vec<&str> = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).collect();
    let orders = [&paths[0], reference, &flags.join(" "), &paths[1], step, &count.to_string()].join("\n");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::pulls", "--ignored"])
        .env(ORDERS, orders)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("the pull did not end: {:?}, {step}", child.wait());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
