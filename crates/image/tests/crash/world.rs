//! Images that need all that extraction can do, the registry that has them, and pulls of them.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use microsandbox_image_core::{
    Digest, GlobalCache, ImageError, PullOptions, PullResult, Reference, Registry, Settings,
    progress::{Event, Observer},
    registry::ClientOptions,
};
use tokio_util::sync::CancellationToken;

use crate::{
    archive::{Header, archive},
    scenario::Scenario,
    support::{self, Reply, Server, Store, Watch, images},
};

/// The images, in an order in which each layer gets the trees that the scenarios expect: `left` comes before `right`.
pub const IMAGES: [&str; 7] = ["one", "two", "three", "both", "left", "right", "twice"];

/// The layers of an image, bottom first.
fn bytes_of(image: &str) -> Vec<Vec<u8>> {
    match image {
        "one" => vec![base()],
        "two" => vec![base(), upper()],
        "three" => vec![base(), upper(), third()],
        "both" => vec![base(), third()],
        "left" => vec![base(), shared()],
        "right" => vec![other_base(), shared()],
        "twice" => vec![base(), shared(), other_base(), shared()],
        _ => panic!("no image has this name: {image}"),
    }
}

/// The registry.
pub struct World {
    pub server: Server,
    damaged: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
}

impl World {
    pub fn new() -> Self {
        let mut store = Store::default();
        for tag in IMAGES {
            let layers = bytes_of(tag);
            let layers: Vec<&[u8]> = layers.iter().map(|layer| &layer[..]).collect();
            let manifest = store.image("linux/amd64", &layers);
            store.tag(tag, images::OCI_MANIFEST, &manifest);
        }
        let damaged = Arc::new(AtomicBool::new(false));
        let (wrong, blob) = (Arc::clone(&damaged), images::sha256(&base()).to_string());
        let refused = Arc::new(AtomicBool::new(false));
        let refuse = Arc::clone(&refused);
        let server = Server::start(move |request| {
            if refuse.load(Ordering::Relaxed) && request.path.ends_with(&blob) {
                return Reply::new(503, "");
            }
            let mut reply = store.reply(request);
            if wrong.load(Ordering::Relaxed) && request.path.ends_with(&blob) {
                let last = reply.body.len() - 1;
                reply.body[last] ^= 1;
            }
            reply
        });
        Self { server, damaged, refused }
    }

    /// From now on the lowest layer is sent with a wrong byte, or rightly.
    pub fn send_damaged(&self, damaged: bool) {
        self.damaged.store(damaged, Ordering::Relaxed);
    }

    /// From now on the registry fails where the lowest layer is asked for, or not.
    pub fn refuse_layer(&self, refused: bool) {
        self.refused.store(refused, Ordering::Relaxed);
    }

    pub fn reference(&self, image: &str) -> String {
        format!("{}/team/app:{image}", self.server.host)
    }

    /// The layers of an image, bottom first.
    pub fn layers(image: &str) -> Vec<Digest> {
        bytes_of(image).iter().map(|layer| images::sha256(layer)).collect()
    }

    /// The first bytes of an image's lowest layer.
    pub fn half_a_layer() -> Vec<u8> {
        let mut bytes = base();
        bytes.truncate(30_000);
        bytes
    }
}

/// Pulls once in this process.
pub fn pull(cache: &Path, reference: &str, how: &Scenario) -> Result<PullResult, ImageError> {
    pull_watched(cache, reference, how).0
}

/// Pulls once and tells what happened.
pub fn pull_watched(cache: &Path, reference: &str, how: &Scenario) -> (Result<PullResult, ImageError>, Vec<Event>) {
    let watch = Arc::new(Watch::default());
    let pulled = pull_until(cache, reference, how, Arc::clone(&watch) as Arc<dyn Observer>, CancellationToken::new());
    let events = watch.0.lock().unwrap().clone();
    (pulled, events)
}

/// When the last pull of this process ended.
pub static ENDED: Mutex<Option<Instant>> = Mutex::new(None);

/// Pulls once, until it is done or cancelled.
pub fn pull_until(
    cache: &Path,
    reference: &str,
    how: &Scenario,
    observer: Arc<dyn Observer>,
    cancel: CancellationToken,
) -> Result<PullResult, ImageError> {
    let settings = Settings {
        lock_timeout: Some(Duration::from_secs(10)),
        concurrency: if how.parallel { 3 } else { 1 },
        extractions: if how.parallel { 2 } else { 1 },
        writers: if how.parallel { 2 } else { 1 },
        ..Settings::default()
    };
    let options = PullOptions {
        force: how.force,
        verify_before_extract: !how.parallel,
        keep_blobs: !how.drops_blobs,
        durable: how.durable,
        ..PullOptions::default()
    };
    let client = ClientOptions { retries: how.retries, ..support::options() };
    let registry = Registry::new(GlobalCache::new(cache), support::amd64(), client, settings).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let reference = Reference::parse(reference).unwrap();
    runtime.block_on(async {
        let pulled = registry.pull(&reference, &options, observer, cancel).await;
        // How long that took is told before the runtime waits for its threads.
        *ENDED.lock().unwrap() = Some(Instant::now());
        pulled
    })
}

fn base() -> Vec<u8> {
    let made = archive()
        .put(Header::new(b'5', b"usr").uid(5), b"")
        .put(Header::new(b'5', b"usr/lib").uid(7).gid(7), b"")
        .file_bytes(b"usr/lib/base", &support::noise(60_000))
        .file("srv/data/file", "below directories that no entry describes");
    made.end().0
}

fn upper() -> Vec<u8> {
    let sparse: [(&str, &[u8]); 3] =
        [("GNU.sparse.size", b"10000"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"4096,3")];
    let made = archive()
        .file_bytes(b"usr/lib/new", &support::noise(50_000))
        .link("usr/lib/linked", "usr/lib/base")
        .symlink("opt/link", "../usr")
        .file("opt/first", "two names")
        .link("opt/second", "opt/first")
        .file("opt/becomes a directory", "x")
        .dir("opt/becomes a directory")
        .file("opt/becomes a file/below/deep", "x")
        .file("opt/becomes a file", "y")
        .pax(&[("SCHILY.xattr.user.note", b"kept")])
        .file("opt/noted", "z")
        .pax(&sparse)
        .file("opt/sparse", "abc");
    made.end().0
}

fn third() -> Vec<u8> {
    archive().dir("third").file_bytes(b"third/file", &support::noise(40_000)).end().0
}

/// A base with other owners.
fn other_base() -> Vec<u8> {
    let made = archive()
        .put(Header::new(b'5', b"usr").uid(9), b"")
        .put(Header::new(b'5', b"usr/lib").uid(11).gid(11), b"")
        .file_bytes(b"usr/lib/base", &support::noise(20_000));
    made.end().0
}

/// A layer whose directories are those of the layer below, without links to it.
fn shared() -> Vec<u8> {
    let made = archive().file_bytes(b"usr/lib/shared", &support::noise(30_000)).file("usr/share/text", "text");
    made.link("usr/share/again", "usr/share/text").end().0
}
