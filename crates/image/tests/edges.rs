//! Which module may name which: dependencies point one way.

use std::{collections::BTreeSet, fs, path::Path};

/// module → modules it may name. `error` and `progress` are free to all.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("model", &[]),
    ("fs", &["model"]),
    ("progress", &["model"]),
    ("budget", &[]),
    ("registry", &["model", "budget"]),
    ("layer", &["model", "fs"]),
    // Metadata keep a layer's report: a value, no behaviour.
    ("store", &["model", "fs", "layer"]),
    ("pull", &["model", "fs", "budget", "registry", "store", "layer"]),
];

fn named_modules(text: &str, into: &mut BTreeSet<String>) {
    // `use crate::{a, b::c}` and `crate::a::b`, test modules included.
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0;
                let mut word = String::new();
                for letter in group.chars() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if letter.is_alphanumeric() || letter == '_' {
                        word.push(letter);
                    } else {
                        if letter == ':' && depth == 0 && !word.is_empty() {
                            into.insert(std::mem::take(&mut word));
                        }
                        word.clear();
                    }
                }
            }
            None => {
                into.insert(rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect());
            }
        }
    }
}

fn sources(directory: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn dependencies_between_modules_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<&str> = ALLOWED.iter().map(|(module, _)| *module).collect();
    for (module, allowed) in ALLOWED {
        let mut texts = Vec::new();
        sources(&root.join(module), &mut texts);
        assert!(!texts.is_empty(), "{module} has no sources");
        let mut named = BTreeSet::new();
        texts.iter().for_each(|text| named_modules(text, &mut named));
        for name in named {
            let free =
                matches!(name.as_str(), "error" | "progress") || name == module || !modules.contains(name.as_str());
            assert!(free || allowed.contains(&name.as_str()), "{module} names {name}");
        }
    }
}

#[test]
fn the_core_names_no_binding_prints_nothing_and_reads_no_environment() {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    for forbidden in ["napi", "println!", "eprintln!", "env::var"] {
        assert!(!texts.iter().any(|text| text.contains(forbidden)), "the core contains {forbidden}");
    }
}
