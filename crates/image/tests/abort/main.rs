//! A pull is cancelled at each event and at each step with which it changes the disk: it ends within 250 ms, gives all its
//! locks back, leaves nothing half-made under a final name, and keeps what it downloaded.

#![allow(dead_code, unreachable_pub, reason = "what is shared with other tests has more than is used here")]

#[path = "../layers/archive.rs"]
mod archive;
#[path = "../crash/child.rs"]
mod child;
#[path = "../crash/golden.rs"]
mod golden;
#[path = "../crash/look.rs"]
mod look;
#[path = "../crash/scenario.rs"]
mod scenario;
#[path = "../support/mod.rs"]
mod support;
#[path = "../crash/table.rs"]
mod table;
#[path = "../crash/world.rs"]
mod world;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use golden::Golden;
use microsandbox_image_core::{
    Digest, GlobalCache, ImageError, PullResult, Reference, fail_points,
    progress::{Event, Observer, Unobserved},
    store::LayerFile,
};
use scenario::Scenario;
use tokio_util::sync::CancellationToken;
use world::{ENDED, World, pull, pull_until};

const LIMIT: Duration = Duration::from_millis(250);
/// Another program may take the processor; it does not do so every time.
const TRIES: usize = 5;

/// Steps are those of the whole process.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cancelled pull.
struct Aborted {
    /// `None` where the pull was over.
    outcome: Option<Result<PullResult, ImageError>>,
    /// Bytes of unfinished downloads when it was cancelled.
    parts: BTreeMap<Digest, u64>,
}

fn parts(cache: &GlobalCache, layers: &[Digest]) -> BTreeMap<Digest, u64> {
    let length = |layer: &Digest| {
        let of = |file| fs::metadata(cache.layer(layer, file)).map(|file| file.len());
        of(LayerFile::Blob).or_else(|_| of(LayerFile::Part)).unwrap_or(0)
    };
    layers.iter().map(|layer| (layer.clone(), length(layer))).collect()
}

/// When a pull was cancelled, and what it had downloaded by then.
type Cancelled = Arc<Mutex<Option<(Instant, BTreeMap<Digest, u64>)>>>;

/// Cancels when it is called, and remembers when that was.
fn canceller(
    cache: &Path,
    layers: &[Digest],
) -> (Cancelled, CancellationToken, impl Fn() + Clone + Send + Sync + 'static) {
    let (at, cancel) = (Arc::new(Mutex::new(None)), CancellationToken::new());
    let (cache, layers) = (GlobalCache::new(cache), layers.to_vec());
    let act = {
        let (at, cancel) = (Arc::clone(&at), cancel.clone());
        move || {
            let parts = parts(&cache, &layers);
            *at.lock().unwrap() = Some((Instant::now(), parts));
            cancel.cancel();
        }
    };
    (at, cancel, act)
}

/// What a cancelled pull must leave, and that the next one succeeds.
fn check(how: &Scenario, world: &World, cache: &Path, what: &str, aborted: &Aborted, golden: &Golden) {
    let (directory, cache) = (cache, GlobalCache::new(cache));
    let reference = world.reference(how.image);
    look::assert_no_lock_stays(&cache);
    let layers = World::layers(how.image);
    let started = Instant::now();
    let unfinished = || {
        let mut left = look::unfinished(&cache);
        left.retain(|name| name != ".tar.gz.part" && !how.leftovers);
        left
    };
    while !unfinished().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: left {:?}", unfinished());
        std::thread::sleep(Duration::from_millis(2));
    }
    for layer in &layers {
        look::whole(&cache, layer, golden, || false);
    }
    if !how.damaged && !how.drops_blobs {
        let now = parts(&cache, &layers);
        assert!(layers.iter().all(|layer| now[layer] >= aborted.parts[layer]), "{what}: a download was lost");
    }
    let is_there = look::is_remembered(&cache, &reference);
    match &aborted.outcome {
        Some(Err(error)) => assert!(error.is_aborted(), "{what}: {error:?}"),
        Some(Ok(_)) => panic!("{what}: it went on to its end"),
        None => assert_eq!(is_there, !how.damaged, "{what}: the pull was over"),
    }
    world.send_damaged(false);
    let result = pull(directory, &reference, &Scenario { force: false, ..how.clone() });
    let result = result.unwrap_or_else(|error| panic!("after {what}: {error:?}"));
    golden.assert_right(how.image, &result.layers, &format!("after {what}"));
}

/// Cancels at the `count`th passing of a step; `None` if it did not come.
fn abort_at(how: &Scenario, world: &World, step: &str, count: usize, golden: &Golden) -> Option<Duration> {
    let temp = how.prepare(world);
    let cache = temp.path().join("cache");
    let (at, cancel, act) = canceller(&cache, &World::layers(how.image));
    fail_points::at_passing(step, count, act);
    let outcome = pull_until(&cache, &world.reference(how.image), how, Arc::new(Unobserved), cancel);
    fail_points::at_none();
    let ended = ENDED.lock().unwrap().unwrap();
    let (when, parts) = at.lock().unwrap().take()?;
    let took = ended.saturating_duration_since(when);
    let what = format!("{}: {step} {count}", how.id);
    // A pull's own lease goes when all is decided; a lease that a crash left goes beside the pull.
    let is_aborted = outcome.as_ref().is_err_and(ImageError::is_aborted);
    let outcome = Some(outcome).filter(|_| step != "remove leases/*" || is_aborted);
    check(how, world, &cache, &what, &Aborted { outcome, parts }, golden);
    Some(took)
}

/// Cancels at each step of a kind of pull.
fn holds(how: &Scenario) {
    let _one = one_at_a_time();
    let world = World::new();
    let golden = Golden::new(&world);
    let mut passed = Vec::new();
    {
        let temp = how.prepare(&world);
        fail_points::record();
        let pulled = pull(&temp.path().join("cache"), &world.reference(how.image), how);
        assert_eq!(pulled.is_err(), how.damaged);
        for step in fail_points::record() {
            match passed.iter_mut().find(|(name, _)| *name == step.name) {
                Some((_, count)) => *count += step.count,
                None => passed.push((step.name, step.count)),
            }
        }
        world.send_damaged(false);
    }
    assert!(passed.len() > 20, "{passed:?}");
    let mut late = Vec::new();
    // The kinds that differ little from these are cancelled at the first passing of each step alone.
    let at_last = ["first", "upper", "parallel"].contains(&how.id);
    for (step, count) in passed {
        for count in std::collections::BTreeSet::from([1, if at_last { count } else { 1 }]) {
            let mut tries = (0..TRIES).map(|_| abort_at(how, &world, &step, count, &golden));
            let slow = |took: Option<Duration>| took.is_some_and(|took| took > LIMIT);
            if tries.all(slow) {
                late.push(format!("{step} {count}"));
            }
        }
    }
    assert_eq!(late, Vec::<String>::new(), "{}: these take longer than {LIMIT:?}", how.id);
}

fn of(id: &'static str, image: &'static str) -> Scenario {
    Scenario { id, image, ..Scenario::default() }
}

#[test]
fn a_first_pull_may_be_cancelled_anywhere() {
    holds(&of("first", "one"));
}

#[test]
fn a_forced_pull_may_be_cancelled_anywhere() {
    holds(&Scenario { there: Some("one"), force: true, ..of("force", "one") });
}

#[test]
fn a_pull_of_a_layer_that_depends_on_the_one_below_may_be_cancelled_anywhere() {
    holds(&Scenario { there: Some("one"), ..of("upper", "two") });
}

#[test]
fn a_pull_that_makes_a_tree_beside_another_images_may_be_cancelled_anywhere() {
    holds(&Scenario { there: Some("left"), ..of("beside", "right") });
}

#[test]
fn a_pull_whose_blob_is_damaged_on_the_way_may_be_cancelled_anywhere() {
    holds(&Scenario { damaged: true, ..of("damaged", "one") });
}

#[test]
fn a_pull_that_waits_for_the_disk_may_be_cancelled_anywhere() {
    holds(&Scenario { durable: true, ..of("durable", "one") });
}

#[test]
fn a_pull_that_sweeps_what_a_crash_left_may_be_cancelled_anywhere() {
    holds(&Scenario { leftovers: true, ..of("sweep", "one") });
}

#[test]
fn a_pull_that_drops_its_blobs_may_be_cancelled_anywhere() {
    holds(&Scenario { drops_blobs: true, ..of("dropped", "one") });
}

#[test]
fn a_pull_of_three_layers_at_once_may_be_cancelled_anywhere() {
    holds(&Scenario { parallel: true, ..of("parallel", "three") });
}

/// Cancels at the first event of some kind.
struct CancelAt<W, F> {
    is_wanted: W,
    act: F,
    event: Mutex<Option<Event>>,
}

impl<W: Fn(&Event) -> bool + Send + Sync, F: Fn() + Send + Sync> Observer for CancelAt<W, F> {
    fn notify(&self, event: Event) {
        let mut found = self.event.lock().unwrap();
        if found.is_none() && (self.is_wanted)(&event) {
            *found = Some(event);
            (self.act)();
        }
    }
}

/// Cancels at an event; tells which and how long it took, `None` if it did not come. `held` is what others hold until then.
fn abort_at_event(
    how: &Scenario,
    world: &World,
    golden: &Golden,
    is_wanted: impl Fn(&Event) -> bool + Send + Sync + 'static,
    hold: impl FnOnce(&Path) -> Held,
) -> Option<(String, Duration)> {
    let temp = how.prepare(world);
    let cache = temp.path().join("cache");
    let held = hold(&cache);
    let (at, cancel, act) = canceller(&cache, &World::layers(how.image));
    let observer = Arc::new(CancelAt { is_wanted, act, event: Mutex::default() });
    let watching = Arc::clone(&observer) as Arc<dyn Observer>;
    let outcome = pull_until(&cache, &world.reference(how.image), how, watching, cancel);
    let ended = ENDED.lock().unwrap().unwrap();
    held.lock().unwrap().take();
    world.refuse_layer(false);
    let event = observer.event.lock().unwrap().take()?;
    let (when, parts) = at.lock().unwrap().take().unwrap();
    let took = ended.saturating_duration_since(when);
    let what = format!("{}: {event:?}", how.id);
    let outcome = if matches!(event, Event::Complete { .. }) { None } else { Some(outcome) };
    check(how, world, &cache, &what, &Aborted { outcome, parts }, golden);
    Some((what, took))
}

/// A lock that somebody else holds.
type Held = Arc<Mutex<Option<fs::File>>>;

/// Somebody else holds the lock of this file.
fn hold(path: &Path) -> fs::File {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    fs2::FileExt::try_lock_exclusive(&file).unwrap();
    file
}

/// The quickest of some tries; fails where none is quick enough.
fn is_in_time(mut tries: impl FnMut() -> Option<(String, Duration)>) -> bool {
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let Some((what, time)) = tries() else { return false };
        if time <= LIMIT {
            return true;
        }
        took.push((what, time));
    }
    panic!("these take longer than {LIMIT:?}: {took:?}");
}

#[test]
fn a_pull_may_be_cancelled_at_each_event() {
    let _one = one_at_a_time();
    let world = World::new();
    let golden = Golden::new(&world);
    for how in [of("one after the other", "three"), Scenario { parallel: true, ..of("at once", "three") }] {
        let at = |count: usize| {
            let left = AtomicUsize::new(count);
            move |_: &Event| left.fetch_sub(1, Ordering::SeqCst) == 1
        };
        let count =
            (1..).find(|&count| !is_in_time(|| abort_at_event(&how, &world, &golden, at(count), |_| Held::default())));
        assert!(count.is_some_and(|count| count > 20), "{count:?} events");
    }
}

#[test]
fn a_pull_that_waits_for_a_lock_may_be_cancelled() {
    let _one = one_at_a_time();
    let world = World::new();
    let golden = Golden::new(&world);
    let how = of("lock", "one");
    let is_wait = |event: &Event| matches!(event, Event::LockWaiting { .. });
    let layer = &World::layers("one")[0];
    let reference = Reference::parse(&world.reference("one")).unwrap();
    let locks: [&dyn Fn(&GlobalCache) -> PathBuf; 4] = [
        &|cache| cache.image_lock_path(&reference, &support::amd64()),
        &|cache| cache.directory().join("leases/gc.lock"),
        &|cache| cache.layer(layer, LayerFile::DownloadLock),
        &|cache| cache.layer(layer, LayerFile::Lock),
    ];
    for path in locks {
        let take = |cache: &Path| {
            let cache = GlobalCache::new(cache);
            cache.prepare().unwrap();
            Arc::new(Mutex::new(Some(hold(&path(&cache)))))
        };
        assert!(is_in_time(|| abort_at_event(&how, &world, &golden, is_wait, take)));
    }
    // The second time that the layer's lock is taken: to give the tree what it inherits.
    let take = |cache: &Path| {
        let held = Held::default();
        let (taken, path) = (Arc::clone(&held), GlobalCache::new(cache).layer(layer, LayerFile::Lock));
        fail_points::at_passing("open layers/<d>.lock", 2, move || *taken.lock().unwrap() = Some(hold(&path)));
        held
    };
    assert!(is_in_time(|| abort_at_event(&how, &world, &golden, is_wait, take)));
}

#[test]
fn a_pull_that_waits_for_its_next_try_may_be_cancelled() {
    let _one = one_at_a_time();
    let world = World::new();
    let golden = Golden::new(&world);
    let how = Scenario { retries: 5, ..of("retry", "one") };
    let is_retry = |event: &Event| matches!(event, Event::Retrying { .. });
    let refuse = |_: &Path| {
        world.refuse_layer(true);
        Held::default()
    };
    assert!(is_in_time(|| abort_at_event(&how, &world, &golden, is_retry, refuse)));
}
