//! The sidecar index of a layer. Names are raw bytes; where they are not UTF-8 they cross in hexadecimal as well.

use std::path::Path;

use microsandbox_image_core::layer::{EntryRecord, LayerIndex};
use napi_derive::napi;
use serde_json::{Value, json};

use crate::outcome::{guarded, without_panic};

/// An open index.
#[napi]
pub struct NativeLayerIndex(std::result::Result<Option<LayerIndex>, String>);

#[napi]
impl NativeLayerIndex {
    /// Opens it. What is wrong with it is told by `check`.
    #[napi(constructor)]
    pub fn new(path: String) -> Self {
        let opened = without_panic(|| LayerIndex::open(Path::new(&path)));
        Self(opened.map(Some).map_err(|error| guarded::<()>(|| Err(error))))
    }

    /// The outcome of opening it.
    #[napi]
    pub fn check(&self) -> String {
        match &self.0 {
            Ok(index) => guarded(|| {
                let counts = |index: &LayerIndex| json!({ "directories": index.directory_count(), "entries": index.entry_count() });
                Ok(index.as_ref().map(counts))
            }),
            Err(failure) => failure.clone(),
        }
    }

    /// A directory with what it holds.
    #[napi]
    pub fn directory(&self, path: String) -> String {
        self.answer(|index| {
            let directory = index.directory(trimmed(&path))?;
            let entries: Vec<Value> = index.entries(&directory).map(|entry| entry_json(&entry)).collect();
            let tombstones: Vec<_> = index.tombstones(&directory).into_iter().map(String::from_utf8_lossy).collect();
            let path = String::from_utf8_lossy(directory.path);
            Some(json!({ "path": path, "opaque": directory.opaque, "entries": entries, "tombstones": tombstones }))
        })
    }

    /// Some of what a directory holds: at most `count` entries from the `from`th on; null if it is no directory.
    #[napi]
    pub fn entries(&self, path: String, from: u32, count: u32) -> String {
        self.answer(|index| {
            let directory = index.directory(trimmed(&path))?;
            let piece = index.entries(&directory).skip(from as usize).take(count as usize);
            Some(json!(piece.map(|entry| entry_json(&entry)).collect::<Vec<_>>()))
        })
    }

    /// An entry by path.
    #[napi]
    pub fn lookup(&self, path: String) -> String {
        self.answer(|index| index.lookup(trimmed(&path)).map(|entry| entry_json(&entry)))
    }

    /// All paths of an inode with more than one.
    #[napi]
    pub fn hard_links(&self, inode: String) -> String {
        self.answer(|index| {
            let paths = index.hard_links(inode.parse().unwrap_or(0));
            Some(json!(paths.into_iter().map(String::from_utf8_lossy).collect::<Vec<_>>()))
        })
    }

    /// Gives the map back.
    #[napi]
    pub fn close(&mut self) {
        self.0 = Ok(None);
    }
}

impl NativeLayerIndex {
    fn answer(&self, ask: impl FnOnce(&LayerIndex) -> Option<Value>) -> String {
        guarded(|| match &self.0 {
            Ok(Some(index)) => Ok(ask(index)),
            _ => Err(microsandbox_image_core::ErrorKind::Index {
                path: "(closed)".to_owned(),
                reason: "the index was closed".to_owned(),
            }
            .into()),
        })
    }
}

fn trimmed(path: &str) -> &[u8] {
    path.trim_matches('/').as_bytes()
}

fn entry_json(entry: &EntryRecord<'_>) -> Value {
    let raw = std::str::from_utf8(entry.name).is_err().then(|| {
        entry.name.iter().fold(String::new(), |mut hex, byte| {
            use std::fmt::Write;
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    });
    json!({
        "name": String::from_utf8_lossy(entry.name),
        "rawName": raw,
        "inode": entry.inode.to_string(),
        "size": entry.size,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "whiteout": entry.whiteout,
        "isDirectory": entry.directory.is_some(),
    })
}
