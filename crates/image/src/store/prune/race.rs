//! A model of the race between a pull and those who remove: a pull's steps on a real cache, put between the moments of a
//! prune and of a remove. Whatever the order, what the pull's metadata name is there in the end.
//!
//! There are 792 ways for each of the two. To save time every fourth is tried, others in a prune than in a remove.

use std::{fs, path::PathBuf};

use crate::{
    model::{Algorithm, Digest, ImageConfig, Platform, Reference},
    store::{CachedImageMetadata, CachedLayerMetadata, Lease, TreeFile},
};

use super::*;

/// How far a pull has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Lock,
    Lease,
    Table,
    Trees,
    Metadata,
    DropLease,
    Unlock,
    Done,
}

const STEPS: [Step; 8] = {
    use Step::{Done, DropLease, Lease, Lock, Metadata, Table, Trees, Unlock};
    [Lock, Lease, Table, Trees, Metadata, DropLease, Unlock, Done]
};

/// One pull, which goes on by one step when it is told to.
struct Pull<'a> {
    cache: &'a GlobalCache,
    at: usize,
    lock: Option<crate::fs::Lock>,
    lease: Option<Lease>,
}

fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

/// The trees of an image: the base tree of its first layer, a tree of its own of the second.
fn trees(name: &str) -> [TreeName; 2] {
    [TreeName::base(&digest("below")), TreeName::keyed(&digest("above"), &digest(name).hex()[..32])]
}

fn publish(cache: &GlobalCache, tree: &TreeName) {
    let place = cache.tree(tree, TreeFile::Tree);
    if place.exists() {
        return;
    }
    let made = cache.scratch(&tree.digest, "pull");
    fs::create_dir(&made).unwrap();
    fs::write(made.join(".complete"), "").unwrap();
    fs::rename(made, place).unwrap();
}

fn write_metadata(cache: &GlobalCache, name: &str) {
    let layer = |tree: TreeName| CachedLayerMetadata {
        digest: tree.digest,
        media_type: None,
        size_bytes: None,
        diff_id: String::new(),
        inherited: tree.inherited,
        no_index: false,
    };
    let metadata = CachedImageMetadata {
        manifest_digest: digest(name),
        config_digest: digest(name),
        config: ImageConfig::default(),
        layers: trees(name).map(layer).into(),
        format_version: 2,
        reference: Some(reference(name).to_string()),
        platform: None,
        index_digest: None,
        manifest_media_type: None,
        raw_manifest: None,
        raw_config: None,
        pulled_at_ms: None,
        written: None,
        report: Default::default(),
    };
    cache.write_image_metadata(&reference(name), &Platform::host_linux(), &metadata).unwrap();
}

impl Pull<'_> {
    /// The next step; false if it has to wait for somebody.
    fn go_on(&mut self) -> bool {
        let lock = self.cache.image_lock_path(&reference("pulled"), &Platform::host_linux());
        let layers = trees("pulled").map(|tree| tree.digest);
        match STEPS[self.at] {
            Step::Lock => {
                self.lock = crate::fs::Lock::try_acquire(&lock).unwrap();
                if self.lock.is_none() {
                    return false;
                }
            }
            Step::Lease => {
                let wait = LockWait { timeout: Some(Duration::ZERO), ..LockWait::default() };
                let key = lock.file_stem().unwrap().to_str().unwrap();
                match self.cache.lease_pull(key, &layers, &wait) {
                    Ok(lease) => self.lease = Some(lease),
                    Err(error) => {
                        assert_eq!(error.code(), "ERR_LOCK_TIMEOUT");
                        return false;
                    }
                }
            }
            Step::Table => {
                for layer in &layers {
                    fs::write(self.cache.layer(layer, LayerFile::Table), "").unwrap();
                }
            }
            Step::Trees => trees("pulled").iter().for_each(|tree| publish(self.cache, tree)),
            Step::Metadata => write_metadata(self.cache, "pulled"),
            Step::DropLease => self.lease = None,
            Step::Unlock => self.lock = None,
            Step::Done => return true,
        }
        self.at += 1;
        true
    }

    /// Goes on as far as `until`, or as far as it can.
    fn go_on_until(&mut self, until: usize) {
        while self.at < until && self.go_on() {}
    }
}

/// Who removes.
#[derive(Debug, Clone, Copy)]
enum Remover {
    Prune,
    Remove,
}

/// One in so many ways is tried.
const SAMPLE: usize = 4;

/// How often a remover looks whether somebody wants to go on.
const MOMENTS: usize = 5;

impl Remover {
    fn run(self, cache: &GlobalCache, between: &mut dyn FnMut(Moment)) {
        let wait = LockWait::default();
        match self {
            Self::Prune => drop(cache.prune_step_by_step(&PruneOptions::default(), &wait, between).unwrap()),
            Self::Remove => drop(cache.remove_step_by_step(&reference("other"), &wait, between).unwrap()),
        }
    }
}

/// All ways to divide a pull's steps among the moments: how far it has got at each.
fn schedules() -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..MOMENTS {
        let longer = all.iter().flat_map(|schedule: &Vec<usize>| {
            let from = schedule.last().copied().unwrap_or(0);
            (from..STEPS.len()).map(|until| [&schedule[..], &[until]].concat())
        });
        all = longer.collect();
    }
    all
}

/// A cache with another image, whose metadata go in a remove, and with trees of the image to be pulled that nobody names.
fn fill(cache: &GlobalCache) {
    cache.prepare().unwrap();
    for name in ["other", "pulled"] {
        trees(name).iter().for_each(|tree| publish(cache, tree));
    }
    write_metadata(cache, "other");
}

fn missing(cache: &GlobalCache, name: &str) -> Vec<PathBuf> {
    let places = trees(name).map(|tree| cache.tree(&tree, TreeFile::Tree).join(".complete"));
    places.into_iter().filter(|place| !place.exists()).collect()
}

#[test]
fn a_pull_that_ends_while_others_remove_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let mut tried = 0;
    let all = schedules();
    // Seven steps among five moments and the time after: 12 over 5.
    assert_eq!(all.len(), 792);
    for (first, remover) in [(0, Remover::Prune), (2, Remover::Remove)] {
        for schedule in all.iter().skip(first).step_by(SAMPLE) {
            let cache = GlobalCache::new(&temp.path().join(tried.to_string()));
            fill(&cache);
            let mut pull = Pull { cache: &cache, at: 0, lock: None, lease: None };
            let mut moments = schedule.iter();
            remover.run(&cache, &mut |_| {
                if let Some(&until) = moments.next() {
                    pull.go_on_until(until);
                }
            });
            assert_eq!(moments.len(), 0, "{remover:?} has {MOMENTS} moments");
            pull.go_on_until(STEPS.len() - 1);
            assert_eq!(STEPS[pull.at], Step::Done, "{remover:?} {schedule:?}");
            assert_eq!(missing(&cache, "pulled"), [] as [PathBuf; 0], "{remover:?} {schedule:?}");
            if matches!(remover, Remover::Prune) {
                assert_eq!(missing(&cache, "other"), [] as [PathBuf; 0], "{remover:?} {schedule:?}");
            }
            fs::remove_dir_all(cache.directory()).unwrap();
            tried += 1;
        }
    }
    assert_eq!(tried, 2 * 792 / SAMPLE);
}
