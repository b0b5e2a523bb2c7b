//! What a pull tells is so when it is told, and nothing is told that did not happen.

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use microsandbox_image_core::{
    Digest, GlobalCache, ImageError, PullOptions, PullPolicy, PullResult, Registry, Settings, fail_points,
    progress::{Event, Observer},
    store::LayerFile,
};
use support::{Server, Store, images};
use tokio_util::sync::CancellationToken;

/// Steps are those of the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A layer of one file.
fn layer(bytes: usize) -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    made.append_data(&mut header, "file", &support::noise(bytes)[..]).unwrap();
    made.into_inner().unwrap()
}

/// Remembers events, and looks at the cache when they are told.
struct Look {
    cache: GlobalCache,
    layers: Vec<Digest>,
    events: Mutex<Vec<Event>>,
    untrue: Mutex<Vec<String>>,
}

impl Observer for Look {
    fn notify(&self, event: Event) {
        let path = |index: usize, file| self.cache.layer(&self.layers[index], file);
        let is_so = match &event {
            Event::LayerDownloadComplete { layer_index, .. } => {
                let files = [LayerFile::Blob, LayerFile::Part].map(|file| fs::read(path(*layer_index, file)));
                files.into_iter().flatten().any(|bytes| images::sha256(&bytes) == self.layers[*layer_index])
            }
            Event::LayerExtractComplete { layer_index, .. } => self.cache.is_extracted(&self.layers[*layer_index]),
            Event::LayerIndexComplete { layer_index } => path(*layer_index, LayerFile::Index).exists(),
            _ => true,
        };
        if !is_so {
            self.untrue.lock().unwrap().push(format!("{event:?}"));
        }
        self.events.lock().unwrap().push(event);
    }
}

/// Pulls; every event must be so.
fn pull(
    cache: &Path,
    host: &str,
    layers: &[&[u8]],
    options: PullOptions,
) -> (Result<PullResult, ImageError>, Vec<Event>) {
    let cache = GlobalCache::new(cache);
    let layers = layers.iter().map(|layer| images::sha256(layer)).collect();
    let look = Arc::new(Look { cache: cache.clone(), layers, events: Mutex::default(), untrue: Mutex::default() });
    let observer: Arc<dyn Observer> = Arc::clone(&look) as Arc<dyn Observer>;
    let registry = Registry::new(cache, support::amd64(), support::options(), Settings::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let reference = support::reference(host);
    let pulled = runtime.block_on(registry.pull(&reference, &options, observer, CancellationToken::new()));
    assert_eq!(*look.untrue.lock().unwrap(), Vec::<String>::new(), "was told before it was so");
    let events = look.events.lock().unwrap().clone();
    (pulled, events)
}

/// The counts of downloaded bytes, and how often the end was told. They never fall back.
fn downloads(events: &[Event]) -> (Vec<u64>, usize) {
    let (mut counts, mut ends) = (Vec::new(), 0);
    for event in events {
        match event {
            Event::LayerDownloadProgress { downloaded_bytes, .. } => counts.push(*downloaded_bytes),
            Event::LayerDownloadComplete { downloaded_bytes, .. } => {
                counts.push(*downloaded_bytes);
                ends += 1;
            }
            _ => {}
        }
    }
    assert!(counts.is_sorted(), "counts fall back: {counts:?}");
    (counts, ends)
}

fn total(events: &[Event]) -> Option<u64> {
    let resolved = |event: &Event| match event {
        Event::Resolved { total_download_bytes, .. } => *total_download_bytes,
        _ => None,
    };
    events.iter().find_map(resolved)
}

fn names(events: &[Event]) -> Vec<String> {
    let name = |event| format!("{event:?}").split([' ', '{']).next().unwrap().to_owned();
    events.iter().map(name).filter(|name| name.starts_with("LayerExtractC") || name.contains("Index")).collect()
}

#[test]
fn a_layer_whose_last_byte_is_wrong_is_never_told_as_downloaded() {
    let _one = one_at_a_time();
    let layer = layer(400_000);
    let store = Store::with_image(&[&layer]);
    let blob = images::sha256(&layer).to_string();
    let server = Server::start(move |request| {
        let mut reply = store.reply(request);
        if request.path.ends_with(&blob) {
            *reply.body.last_mut().unwrap() ^= 1;
        }
        reply
    });
    let temp = tempfile::tempdir().unwrap();
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer], PullOptions::default());
    assert_eq!(pulled.unwrap_err().code(), "ERR_DIGEST_MISMATCH");
    let (counts, ends) = downloads(&events);
    assert_eq!(ends, 0, "{counts:?}");
    assert_eq!(names(&events), Vec::<String>::new());
}

#[test]
fn counts_of_a_download_that_is_begun_anew_stand_still_until_they_are_overtaken() {
    let _one = one_at_a_time();
    let layer = layer(400_000);
    let store = Store::with_image(&[&layer]);
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let cache = GlobalCache::new(temp.path());
    cache.prepare().unwrap();
    // What is held is damaged, which shows only at the end.
    fs::write(cache.layer(&images::sha256(&layer), LayerFile::Part), vec![7; 300_000]).unwrap();
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer], PullOptions::default());
    pulled.unwrap();
    let (counts, ends) = downloads(&events);
    assert_eq!((counts.last(), ends), (Some(&(layer.len() as u64)), 1), "{counts:?}");
    let started = events.iter().filter(|event| matches!(event, Event::LayerExtractStarted { .. })).count();
    assert_eq!(started, 1);
    assert_eq!(total(&events), Some(layer.len() as u64));
}

#[test]
fn a_download_that_only_lacked_its_name_is_no_download() {
    let _one = one_at_a_time();
    let layer = layer(50_000);
    let store = Store::with_image(&[&layer]);
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let cache = GlobalCache::new(temp.path());
    cache.prepare().unwrap();
    fs::write(cache.layer(&images::sha256(&layer), LayerFile::Part), &layer).unwrap();
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer], PullOptions::default());
    pulled.unwrap();
    assert_eq!((total(&events), downloads(&events)), (Some(0), (vec![], 0)));
}

#[test]
fn a_tree_that_could_not_be_published_is_not_told_as_extracted() {
    let _one = one_at_a_time();
    let layer = layer(50_000);
    let store = Store::with_image(&[&layer]);
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let layers = GlobalCache::new(temp.path()).layers_dir().to_owned();
    // Somebody takes the tree away in the very moment.
    // The first two are those of what earlier pulls may have left.
    let take_away = move || {
        for entry in fs::read_dir(&layers).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "extracting") {
                fs::remove_dir_all(path).unwrap();
            }
        }
    };
    fail_points::at_passing("rename layers/<d>.extracting", 3, take_away);
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer], PullOptions::default());
    fail_points::at_none();
    assert_eq!(pulled.unwrap_err().code(), "ERR_IO");
    assert_eq!(names(&events), Vec::<String>::new());
}

#[test]
fn an_index_is_told_only_where_one_was_made() {
    let _one = one_at_a_time();
    let layer = layer(50_000);
    let store = Store::with_image(&[&layer]);
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let without = PullOptions { index: false, ..PullOptions::default() };
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer], without.clone());
    pulled.unwrap();
    assert_eq!(names(&events), ["LayerExtractComplete"]);
    // A layer that is there has nothing to be told of.
    let again = PullOptions { policy: PullPolicy::Always, ..without };
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer], again);
    pulled.unwrap();
    assert_eq!(names(&events), Vec::<String>::new());
    let with = PullOptions { policy: PullPolicy::Always, ..PullOptions::default() };
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer], with);
    pulled.unwrap();
    assert_eq!(names(&events), ["LayerExtractComplete", "LayerIndexStarted", "LayerIndexComplete"]);
}

#[test]
fn a_damaged_tree_that_will_be_fetched_again_counts_among_the_bytes_to_download() {
    let _one = one_at_a_time();
    let layer = layer(50_000);
    let store = Store::with_image(&[&layer, &layer]);
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let options = PullOptions { keep_blobs: false, policy: PullPolicy::Always, ..PullOptions::default() };
    let (pulled, _) = pull(temp.path(), &server.host, &[&layer, &layer], options.clone());
    let tree = pulled.unwrap().layers[0].clone();
    let (_, events) = pull(temp.path(), &server.host, &[&layer, &layer], options.clone());
    assert_eq!(total(&events), Some(0));
    fs::OpenOptions::new().write(true).open(Path::new(&tree).join("file")).unwrap().set_len(10).unwrap();
    let (pulled, events) = pull(temp.path(), &server.host, &[&layer, &layer], options);
    pulled.unwrap();
    let told = events.iter().filter_map(|event| match event {
        Event::LayerDownloadComplete { downloaded_bytes, .. } => Some(*downloaded_bytes),
        _ => None,
    });
    assert_eq!((total(&events), told.sum::<u64>()), (Some(2 * layer.len() as u64), 2 * layer.len() as u64));
}
