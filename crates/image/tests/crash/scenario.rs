//! One kind of pull, killed at each of its steps.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use microsandbox_image_core::{
    Digest, GlobalCache, Reference,
    progress::Event,
    pull::verify,
    store::{Depth, LayerFile, SkipReason, Skipped, TreeFile, TreeName, VerifyOptions},
};
use tokio_util::sync::CancellationToken;

use crate::{
    child::{self, Passed},
    golden::Golden,
    look,
    support::amd64,
    table::{self, Row},
    world::{World, pull, pull_watched},
};

/// What is pulled into what.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// Names its table.
    pub id: &'static str,
    pub image: &'static str,
    /// An image that is in the cache already.
    pub there: Option<&'static str>,
    pub force: bool,
    /// Blobs go once their layers are extracted.
    pub drops_blobs: bool,
    /// The answer waits until all of it is on the disk.
    pub durable: bool,
    /// The cache has all that crashes leave.
    pub leftovers: bool,
    /// The blob comes with a wrong byte.
    pub damaged: bool,
    /// The layers that are there have trees that were damaged since.
    pub damaged_trees: bool,
    /// The original made what is there: no tables, no lists, no metadata of ours.
    pub original: bool,
    /// How often the registry is asked again.
    pub retries: u32,
    /// All layers and stages at once, as usual; else one after the other, so that every run is the same.
    pub parallel: bool,
}

impl Scenario {
    pub fn holds(&self) {
        let world = World::new();
        let golden = Golden::new(&world);
        let passed = {
            let temp = self.prepare(&world);
            child::record(&temp.path().join("cache"), &world.reference(self.image), self)
        };
        let mut rows = Vec::new();
        for (step, count) in by_name(&passed) {
            let first = self.end_at(&world, &golden, &step, 1).unwrap_or_else(|| panic!("{step} was not passed again"));
            // In a run of many things at once, one of the later passings may not come.
            let later = (count > 1).then(|| self.end_at(&world, &golden, &step, count.div_ceil(2).max(2))).flatten();
            let other = later
                .filter(|later| (&later.whole, &later.left, &later.next) != (&first.whole, &first.left, &first.next));
            rows.push(first);
            rows.extend(other.map(|row| Row { step: format!("{step}, later"), ..row }));
        }
        assert!(rows.len() > 20, "{} steps only", rows.len());
        if self.leftovers {
            // What was swept is deleted beside all that follows, so only what comes before is the same in every run.
            let swept = rows.iter().position(|row| row.step == "create layers/.probe-*").unwrap();
            rows.truncate(swept);
            rows.retain(|row| !row.step.ends_with(", later") && !row.step.contains("tree"));
        }
        // Of several new layers, which comes first differs from run to run: such kinds have no table.
        if !self.parallel && !["twice", "original"].contains(&self.id) {
            table::check(self.id, &rows);
        }
    }

    /// Kills one pull and looks; `None` if it ended before.
    fn end_at(&self, world: &World, golden: &Golden, step: &str, count: usize) -> Option<Row> {
        let temp = self.prepare(world);
        let directory = temp.path().join("cache");
        let (cache, reference) = (GlobalCache::new(&directory), world.reference(self.image));
        let status = child::end_at(&directory, &reference, self, step, count);
        world.send_damaged(false);
        if status.signal() != Some(9) {
            return None;
        }
        let layers = World::layers(self.image);
        look::assert_no_lock_stays(&cache);
        let left = look::unfinished(&cache);
        let mut held = BTreeMap::new();
        for layer in &layers {
            // Once there is a table, nobody looks at more than sizes: by then the original's trees must be right.
            let damaged = || self.damaged_trees && !(self.original && cache.layer(layer, LayerFile::Table).exists());
            held.insert(layer.clone(), look::whole(&cache, layer, golden, damaged));
        }
        let mut whole = held[layers.last().unwrap()].clone();
        whole.extend(look::is_remembered(&cache, &reference).then_some("metadata"));
        if self.parallel {
            // Its own opinion; it takes unfinished trees away, which the other scenarios leave to the next pull.
            assert_verified(&cache);
        }
        let asked = world.server.requests().len();
        let (pulled, events) = pull_watched(&directory, &reference, &self.next());
        let result = pulled.unwrap_or_else(|error| panic!("{step} {count}: {error:?}"));
        let requests = world.server.requests().split_off(asked);
        for (layer, held) in &held {
            let fetched = requests.iter().any(|request| request.path.ends_with(&layer.to_string()));
            let force = self.next().force;
            assert!(force || !(fetched && held.contains("blob")), "{step}: a finished download was fetched again");
        }
        golden.assert_right(self.image, &result.layers, &format!("after {step} {count}"));
        assert!(cache.lookup(&Reference::parse(&reference).unwrap(), &amd64()).unwrap().is_some());
        if requests.is_empty() {
            // A hit writes nothing; the next that is none sweeps.
            pull(&directory, &reference, &Scenario { force: true, ..self.clone() }).unwrap();
        }
        look::assert_swept(&cache, &format!("{step} {count}"));
        look::assert_no_lock_stays(&cache);
        assert_verified(&cache);
        let from: Vec<usize> = requests
            .iter()
            .filter(|request| layers.iter().any(|layer| request.path.ends_with(&layer.to_string())))
            .map(|request| request.from().unwrap_or(0))
            .collect();
        let extracts = events.iter().any(|event| matches!(event, Event::LayerExtractStarted { .. }));
        Some(Row { step: step.to_owned(), whole, left, next: table::next(requests.is_empty(), &from, extracts) })
    }

    /// The next pull. That a tree is damaged under its metadata is found by those alone who doubt it.
    pub fn next(&self) -> Self {
        Self { force: self.force && self.damaged_trees, ..self.clone() }
    }

    /// A cache as the scenario wants it.
    pub fn prepare(&self, world: &World) -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("cache");
        if let Some(there) = self.there {
            pull(&directory, &world.reference(there), &Scenario::default()).unwrap();
            self.spoil(&GlobalCache::new(&directory), there, world);
        }
        if self.leftovers {
            leave(&GlobalCache::new(&directory), &World::layers(self.image)[0], &world.reference(self.image));
        }
        world.send_damaged(self.damaged);
        temp
    }
}

impl Scenario {
    /// Makes what is there the original's, or damages it.
    fn spoil(&self, cache: &GlobalCache, there: &str, world: &World) {
        for layer in World::layers(there) {
            if self.damaged_trees {
                look::damage(&cache.layer(&layer, LayerFile::Tree));
            }
            if self.original {
                fs::remove_file(cache.layer(&layer, LayerFile::Table)).unwrap();
                let list = cache.tree(&TreeName::base(&layer), TreeFile::List);
                if list.exists() {
                    fs::remove_file(list).unwrap();
                }
            }
        }
        if self.original {
            let reference = Reference::parse(&world.reference(there)).unwrap();
            fs::remove_file(cache.image_metadata_path(&reference, &amd64())).unwrap();
        }
    }
}

/// All that crashes leave, at once.
fn leave(cache: &GlobalCache, layer: &Digest, reference: &str) {
    cache.prepare().unwrap();
    let path = |name: &str| cache.layers_dir().join(name);
    let scratch = path(&format!("{}.0123456789abcdef0123456789abcdef.extracting", layer.to_path_safe()));
    for directory in [path(".trash-1-1-1"), cache.layer(layer, LayerFile::Extracting), scratch] {
        fs::create_dir_all(directory.join("etc")).unwrap();
        fs::write(directory.join("etc/file"), "half").unwrap();
    }
    fs::write(path(".probe-1-1"), "").unwrap();
    fs::write(cache.layer(layer, LayerFile::Part), World::half_a_layer()).unwrap();
    for suffix in ["table", "index", "inherited"] {
        let name = format!("{}.{suffix}.0123456789abcdef0123456789abcdef.part", layer.to_path_safe());
        fs::write(path(&name), "half").unwrap();
    }
    let metadata = cache.image_metadata_path(&Reference::parse(reference).unwrap(), &amd64());
    fs::write(metadata.with_extension("json.part"), "{").unwrap();
    let leases = cache.directory().join("leases");
    fs::create_dir(&leases).unwrap();
    fs::write(leases.join("0123456789abcdef0123456789abcdef"), "").unwrap();
    fs::write(leases.join("gc.lock"), "").unwrap();
}

fn assert_verified(cache: &GlobalCache) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let options = VerifyOptions { depth: Depth::Content, repair: false };
    let started = Instant::now();
    loop {
        let report = runtime.block_on(verify(cache, options, CancellationToken::new())).unwrap();
        assert_eq!(report.problems, []);
        // Another test that is just starting its process has all of this one's files for a moment, locks too.
        let is_locked = report.skipped.iter().any(|skipped| skipped.reason == SkipReason::Locked);
        if is_locked && started.elapsed() < Duration::from_secs(5) {
            continue;
        }
        let known = |skipped: &Skipped| matches!(skipped.reason, SkipReason::NoIndex | SkipReason::NoBlob);
        assert!(report.skipped.iter().all(known), "{:?}", report.skipped);
        return;
    }
}

/// The steps and how often each was passed, at all places of the source together.
fn by_name(passed: &[Passed]) -> Vec<(String, usize)> {
    let mut steps: Vec<(String, usize)> = Vec::new();
    for step in passed {
        match steps.iter_mut().find(|(name, _)| *name == step.name) {
            Some((_, count)) => *count += step.count,
            None => steps.push((step.name.clone(), step.count)),
        }
    }
    steps
}
