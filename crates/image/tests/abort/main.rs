//! A pull is cancelled at each event and at each step with which it changes the disk: it ends within 250 ms, gives all its
//! locks back, leaves nothing half-made under a final name, and keeps what it downloaded.

#![allow(dead_code, unreachable_pub, reason = "what is shared with other tests has more than is used here")]

#[path = "../layers/archive.rs"]
mod archive;
#[path = "../crash/child.rs"]
mod child;
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
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use microsandbox_image_core::{
    Digest, GlobalCache, ImageError, PullResult, fail_points,
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
    outcome: Result<PullResult, ImageError>,
    took: Duration,
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

/// Cancels when it is called, and remembers when that was.
fn canceller(
    cache: &Path,
    layers: &[Digest],
) -> (Arc<Mutex<Option<(Instant, BTreeMap<Digest, u64>)>>>, CancellationToken, impl Fn() + Clone + Send + Sync + 'static)
{
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
fn check(
    how: &Scenario,
    world: &World,
    cache: &Path,
    what: &str,
    aborted: &Aborted,
    golden: &BTreeMap<Digest, look::Tree>,
) {
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
        look::whole(&cache, layer, &golden[layer]);
    }
    if !how.damaged && !how.drops_blobs {
        let now = parts(&cache, &layers);
        assert!(layers.iter().all(|layer| now[layer] >= aborted.parts[layer]), "{what}: a download was lost");
    }
    let is_there = look::is_remembered(&cache, &reference);
    match &aborted.outcome {
        Err(error) => assert!(error.is_aborted(), "{what}: {error:?}"),
        Ok(_) => assert!(is_there, "{what}: it succeeded, and the image is not there"),
    }
    world.send_damaged(false);
    let result = pull(directory, &reference, &Scenario { force: false, ..how.clone() });
    let result = result.unwrap_or_else(|error| panic!("after {what}: {error:?}"));
    for (layer, path) in layers.iter().zip(&result.layers) {
        assert!(look::tree(path) == golden[layer], "{what}: {layer} is not right after the next pull");
    }
}

/// Cancels at the `count`th passing of a step; `None` if it did not come.
fn abort_at(
    how: &Scenario,
    world: &World,
    step: &str,
    count: usize,
    golden: &BTreeMap<Digest, look::Tree>,
) -> Option<Duration> {
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
    if outcome.is_ok() {
        // The lease goes when `complete` has been told.
        assert_eq!(step, "remove leases/*", "{what}: it went on to its end");
    }
    check(how, world, &cache, &what, &Aborted { outcome, took, parts }, golden);
    Some(took)
}

/// Cancels at each step of a kind of pull.
fn holds(how: &Scenario) {
    let _one = one_at_a_time();
    let world = World::new();
    let golden = scenario::golden(&world);
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
    for (step, count) in passed {
        for count in std::collections::BTreeSet::from([1, count]) {
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
fn a_pull_that_fits_a_layer_to_the_one_below_may_be_cancelled_anywhere() {
    holds(&Scenario { there: Some("one"), ..of("upper", "two") });
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

/// Cancels at the `count`th event.
struct CancelAt<F> {
    left: Mutex<usize>,
    act: F,
    event: Mutex<Option<Event>>,
}

impl<F: Fn() + Send + Sync> Observer for CancelAt<F> {
    fn notify(&self, event: Event) {
        let mut left = self.left.lock().unwrap();
        *left = left.wrapping_sub(1);
        if *left == 0 {
            *self.event.lock().unwrap() = Some(event);
            (self.act)();
        }
    }
}

#[test]
fn a_pull_may_be_cancelled_at_each_event() {
    let _one = one_at_a_time();
    let world = World::new();
    let golden = scenario::golden(&world);
    let mut late = Vec::new();
    for how in [of("one after the other", "three"), Scenario { parallel: true, ..of("at once", "three") }] {
        for count in 1.. {
            let mut tookover = None;
            for _ in 0..TRIES {
                let temp = how.prepare(&world);
                let cache = temp.path().join("cache");
                let (at, cancel, act) = canceller(&cache, &World::layers(how.image));
                let observer = Arc::new(CancelAt { left: Mutex::new(count), act, event: Mutex::default() });
                let watching = Arc::clone(&observer) as Arc<dyn Observer>;
                let outcome = pull_until(&cache, &world.reference(how.image), &how, watching, cancel);
                let ended = ENDED.lock().unwrap().unwrap();
                let Some(event) = observer.event.lock().unwrap().take() else { break };
                let (when, parts) = at.lock().unwrap().take().unwrap();
                let took = ended.saturating_duration_since(when);
                let what = format!("{}: {event:?}", how.id);
                assert!(outcome.is_err() || matches!(event, Event::Complete { .. }), "{what}: it went on to its end");
                check(&how, &world, &cache, &what, &Aborted { outcome, took, parts }, &golden);
                tookover = Some((what, took));
                if took <= LIMIT {
                    break;
                }
            }
            match tookover {
                None => break,
                Some((what, took)) if took > LIMIT => late.push(format!("{what} {took:?}")),
                Some(_) => {}
            }
        }
    }
    assert_eq!(late, Vec::<String>::new(), "these take longer than {LIMIT:?}");
}
