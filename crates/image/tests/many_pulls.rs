//! Many pulls at once in one process: each layer is fetched once, nobody waits for ever, and waiting costs next to nothing.

#![allow(clippy::print_stdout, reason = "says what waiting costs")]

#[path = "support/mod.rs"]
mod support;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use fs2::FileExt;
use microsandbox_image_core::{
    GlobalCache, PullOptions, Reference, Registry, Settings,
    progress::{Event, Unobserved},
    store::LayerFile,
};
use support::{Server, Store, Watch, images};
use tokio_util::sync::CancellationToken;

const PULLS: usize = 32;

/// A layer of one file.
fn layer(name: &str, bytes: usize) -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    let mut content = support::noise(bytes);
    content.extend_from_slice(name.as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    made.append_data(&mut header, format!("opt/{name}"), &content[..]).unwrap();
    made.into_inner().unwrap()
}

fn registry(cache: &Path) -> Registry {
    let settings = Settings { lock_timeout: Some(Duration::from_secs(60)), ..Settings::default() };
    Registry::new(GlobalCache::new(cache), support::amd64(), support::options(), settings).unwrap()
}

/// Seconds of processor time that this process has taken.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

#[test]
fn thirty_two_pulls_at_once_fetch_each_layer_once_and_wait_for_next_to_nothing() {
    let layers: Vec<Vec<u8>> = ["a", "b", "c", "d", "e"].iter().map(|name| layer(name, 200_000)).collect();
    let of = |order: &[usize]| order.iter().map(|&at| &layers[at][..]).collect::<Vec<_>>();
    let mut store = Store::default();
    let orders: [&[usize]; 4] = [&[0, 1, 2, 3, 4], &[4, 3, 2, 1, 0], &[1, 3], &[3, 1, 0]];
    for (tag, order) in orders.iter().enumerate() {
        let manifest = store.image("linux/amd64", &of(order));
        store.tag(&format!("image{tag}"), images::OCI_MANIFEST, &manifest);
    }
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let (cache, registry) = (GlobalCache::new(temp.path()), registry(temp.path()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let reference = |at: usize| Reference::parse(&format!("{}/team/app:image{}", server.host, at % 4)).unwrap();
    let started = Instant::now();
    let results = runtime.block_on(async {
        let mut pulls = tokio::task::JoinSet::new();
        for at in 0..PULLS {
            let (registry, reference) = (registry.clone(), reference(at));
            pulls.spawn(async move {
                let (options, never) = (PullOptions::default(), CancellationToken::new());
                let pull = registry.pull(&reference, &options, Arc::new(Unobserved), never);
                (at, tokio::time::timeout(Duration::from_secs(60), pull).await.expect("a pull hangs").unwrap())
            });
        }
        pulls.join_all().await
    });
    let took = started.elapsed();
    for (at, result) in results {
        let wanted: Vec<_> = orders[at % 4].iter().map(|&layer| images::sha256(&layers[layer])).collect();
        assert_eq!(result.layer_digests, wanted, "pull {at}");
    }
    for layer in &layers {
        assert_eq!(server.asked(&images::sha256(layer).to_string()).len(), 1, "a layer was not fetched once");
        assert!(cache.is_sound(&images::sha256(layer), true));
    }
    // Four references: each is resolved by whoever was first.
    assert_eq!(server.asked("manifests/image").len(), 4);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn no_layers_lock_is_held_while_another_layers_is_waited_for() {
    let layers = [layer("a", 1000), layer("b", 1000), layer("c", 1000)];
    let store = Store::with_image(&[&layers[0], &layers[1], &layers[2]]);
    let server = Server::start(move |request| store.reply(request));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (held, file) in
        [(0, LayerFile::DownloadLock), (0, LayerFile::Lock), (2, LayerFile::DownloadLock), (1, LayerFile::Lock)]
    {
        let temp = tempfile::tempdir().unwrap();
        let (cache, registry) = (GlobalCache::new(temp.path()), registry(temp.path()));
        cache.prepare().unwrap();
        let path = |at: usize, file| cache.layer(&images::sha256(&layers[at]), file);
        let lock = std::fs::File::create(path(held, file)).unwrap();
        lock.lock_exclusive().unwrap();
        let reference = support::reference(&server.host);
        let pull = runtime.spawn(async move {
            registry.pull(&reference, &PullOptions::default(), Arc::new(Unobserved), CancellationToken::new()).await
        });
        let others: Vec<usize> = (0..3).filter(|&at| at != held).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        // All others come in, and their locks are free, while this one is waited for.
        let free = |at: usize| {
            [LayerFile::DownloadLock, LayerFile::Lock]
                .into_iter()
                .all(|file| std::fs::File::open(path(at, file)).is_ok_and(|file| file.try_lock_exclusive().is_ok()))
        };
        // Verified, that is: a layer with a directory that no entry describes is published when all below it are.
        while !others.iter().all(|&at| path(at, LayerFile::Table).exists() && free(at)) {
            assert!(Instant::now() < deadline, "another layer waits for layer {held}");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!pull.is_finished());
        drop(lock);
        runtime.block_on(pull).unwrap().unwrap();
    }
}

#[test]
fn waiting_for_a_lock_costs_next_to_nothing_and_is_told() {
    let store = Store::with_image(&[&layer("a", 1000)]);
    let server = Server::start(move |request| store.reply(request));
    let temp = tempfile::tempdir().unwrap();
    let (cache, registry) = (GlobalCache::new(temp.path()), registry(temp.path()));
    let reference = support::reference(&server.host);
    cache.prepare().unwrap();
    let held = std::fs::File::create(cache.image_lock_path(&reference, &support::amd64())).unwrap();
    held.lock_exclusive().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let watch = Arc::new(Watch::default());
    let spent = runtime.block_on(async {
        let mut pulls = tokio::task::JoinSet::new();
        for _ in 0..PULLS {
            let (registry, reference, watch) = (registry.clone(), reference.clone(), Arc::clone(&watch));
            pulls.spawn(async move {
                let never = CancellationToken::new();
                registry.pull(&reference, &PullOptions::default(), watch, never).await.unwrap()
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = processor();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let spent = processor() - before;
        drop(held);
        let released = Instant::now();
        let results = tokio::time::timeout(Duration::from_secs(30), pulls.join_all()).await.expect("a waiter hangs");
        println!("{PULLS} waiters took {spent} s in 2 s, and ended {:?} after the lock was free", released.elapsed());
        assert_eq!(
            results.iter().filter(|result| !result.cached).count(),
            1,
            "all but one are answered from the cache"
        );
        spent
    });
    let told = watch.0.lock().unwrap();
    let here = Some(std::process::id());
    let waits = told.iter().filter(|event| matches!(event, Event::LockWaiting { holder, .. } if *holder == here));
    assert_eq!(waits.count(), PULLS, "each says that it waits, and for whom");
    assert!(spent < 0.2, "{PULLS} waiters took {spent} s of processor time in 2 s");
}
