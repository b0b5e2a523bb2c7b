//! `original pull REFERENCE CACHE [never|always|if-missing]` pulls with the original crate;
//! `original index FILE` reads an index with its reader. Both print one line of JSON.

use std::{path::Path, process::ExitCode, time::Instant};

use microsandbox_image::{GlobalCache, Platform, PullOptions, PullPolicy, Reference, Registry};
use microsandbox_utils::index::MmapIndex;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match words[..] {
        ["pull", reference, cache] => pull(reference, cache, PullPolicy::IfMissing).await,
        ["pull", reference, cache, "never"] => pull(reference, cache, PullPolicy::Never).await,
        ["pull", reference, cache, "always"] => pull(reference, cache, PullPolicy::Always).await,
        ["pull", reference, cache, "if-missing"] => pull(reference, cache, PullPolicy::IfMissing).await,
        ["index", file] => index(file),
        _ => Err("usage: original pull REFERENCE CACHE [never|always|if-missing] | original index FILE".into()),
    };
    match answer {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn pull(reference: &str, cache: &str, pull_policy: PullPolicy) -> Result<Value, Failure> {
    let reference: Reference = reference.parse()?;
    let registry = Registry::new(Platform::host_linux(), GlobalCache::new(Path::new(cache))?)?;
    let started = Instant::now();
    let options = PullOptions { pull_policy, ..PullOptions::default() };
    let result = registry.pull(&reference, &options).await?;
    Ok(json!({
        "layers": result.layers,
        "manifestDigest": result.manifest_digest.to_string(),
        "cached": result.cached,
        "env": result.config.env,
        "milliseconds": started.elapsed().as_secs_f64() * 1000.0,
    }))
}

fn index(file: &str) -> Result<Value, Failure> {
    let index = MmapIndex::open(Path::new(file)).ok_or("the original's reader refuses this index")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let directories: Vec<Value> = index
        .dir_records()
        .iter()
        .map(|record| {
            let entries: Vec<Value> = index
                .dir_entries(record)
                .iter()
                .map(|entry| {
                    json!({
                        "name": text(index.get_str(entry.name_off, entry.name_len)),
                        "mode": entry.mode,
                        "size": entry.size,
                        "uid": entry.uid,
                        "gid": entry.gid,
                        "inode": entry.host_ino.to_string(),
                        "whiteout": entry.flags & 1 != 0,
                        "directory": entry.dir_record_idx,
                    })
                })
                .collect();
            json!({
                "path": text(index.get_str(record.path_off, record.path_len)),
                "opaque": index.is_opaque(record),
                "entries": entries,
            })
        })
        .collect();
    let links: Vec<Value> = index
        .hardlink_refs()
        .iter()
        .map(|link| json!({ "inode": link.host_ino.to_string(), "path": text(index.hardlink_path(link)) }))
        .collect();
    Ok(json!({ "directories": directories, "hardLinks": links }))
}
