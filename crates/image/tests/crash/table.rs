//! The published table: one part for each kind of pull.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/crash-safety.md");
const UPDATE: &str = "UPDATE_CRASH_TABLE";

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub step: String,
    /// What is whole under final names.
    pub whole: BTreeSet<&'static str>,
    /// What is not finished.
    pub left: BTreeSet<String>,
    /// What the next pull does.
    pub next: String,
}

/// What a pull did, in words.
pub fn next(hit: bool, from: &[usize], extracts: bool) -> String {
    let fetches = match from {
        _ if hit => return "is a hit".to_owned(),
        [] => "fetches nothing",
        [0, ..] => "fetches the layer",
        _ => "fetches the rest",
    };
    format!("{fetches}{}", if extracts { ", extracts" } else { "" })
}

/// Compares with what is published, or publishes it.
pub fn check(id: &str, rows: &[Row]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let page = fs::read_to_string(FILE).unwrap();
    let (start, end) = (format!("<!-- {id} -->\n\n"), format!("\n\n<!-- end of {id} -->"));
    let from = page.find(&start).expect("a place for the table") + start.len();
    let to = from + page[from..].find(&end).expect("the end of the table");
    let table = draw(rows);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(Path::new(FILE), [&page[..from], &table, &page[to..]].concat()).unwrap();
        return;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (published, found) = (lines(&page[from..to]), lines(&table));
    let differ: Vec<_> = published.symmetric_difference(&found).collect();
    assert!(differ.is_empty(), "docs/crash-safety.md differs ({UPDATE}=1 writes it): {differ:#?}");
}

fn draw(rows: &[Row]) -> String {
    let listed = |words: Vec<String>| if words.is_empty() { "nothing".to_owned() } else { words.join(", ") };
    let mut lines = vec![["killed before", "whole", "unfinished", "the next pull"].map(str::to_owned)];
    for row in rows {
        let (step, later) = row.step.split_once(", later").map_or((&row.step[..], ""), |(step, _)| (step, ", later"));
        lines.push([
            format!("`{step}`{later}"),
            listed(row.whole.iter().map(|word| (*word).to_owned()).collect()),
            listed(
                row.left.iter().map(|name| if name == "lease" { name.clone() } else { format!("`{name}`") }).collect(),
            ),
            row.next.clone(),
        ]);
    }
    let widths = [0, 1, 2, 3].map(|at| lines.iter().map(|line| line[at].len()).max().unwrap_or(0));
    let rule = widths.map(|width| "-".repeat(width));
    lines.insert(1, rule);
    let cells = |line: &[String; 4]| [0, 1, 2, 3].map(|at| format!("{:1$}", line[at], widths[at])).join(" | ");
    lines.iter().map(|line| format!("| {} |", cells(line))).collect::<Vec<_>>().join("\n")
}
