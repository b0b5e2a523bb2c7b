//! The end of a pull: what each layer inherits from those below it (SPEC §8), decided when the tables of all layers are
//! there, and the trees of layers that waited for it, published one after the other, bottom first.
//!
//! A layer that waits holds no lock and no permit, only a directory that the pull's lease keeps, so pulls of the same
//! layers in another order never wait for each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Lock, remove_file_if_there},
    layer::{Halt, RowKind, Table, TableFacts},
    model::Digest,
    pull::{
        inherit::{LayerEntry, LayerRows, What, inherit},
        job::{Done, LayerJob, Shared, Waiting},
        lock_wait, panic_text,
    },
    registry::ResolvedImage,
    store::{GlobalCache, Holder, Inherited, LayerFile, Scratch, TreeFile, TreeName, Walker, Wants, open_file},
};

/// A layer's table, as a layer of an image.
struct TableRows(Arc<Table>);

impl LayerRows for TableRows {
    fn digest(&self) -> &Digest {
        &self.0.verified().digest
    }

    fn has_implied_directories(&self) -> bool {
        self.0.has_implied_directories()
    }

    fn has_cross_layer_links(&self) -> bool {
        self.0.has_cross_layer_links()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn entry(&self, at: usize) -> LayerEntry<'_> {
        let row = self.0.row(at);
        let what = match row.kind {
            RowKind::Directory => What::Directory { stat: row.stat, implied: row.implied, opaque: row.opaque },
            RowKind::Symlink => What::Symlink { target: row.target },
            RowKind::Whiteout => What::Whiteout,
            _ if row.cross_layer => What::CrossLayerLink { target: row.target },
            _ => What::File,
        };
        LayerEntry { path: row.path, what }
    }
}

/// What is known of the layers once each was brought in.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) downloaded: bool,
    done: BTreeMap<Digest, Done>,
    /// Trees that this pull made of a verified blob, to copy where the image needs another one of the layer.
    made: BTreeMap<Digest, TreeName>,
}

impl Layers {
    pub(super) fn add(&mut self, done: Done) {
        self.downloaded |= done.downloaded;
        self.done.insert(done.digest.clone(), done);
    }

    /// What could not be kept as it came, by layer.
    pub(super) fn reports(&mut self) -> BTreeMap<String, crate::layer::Report> {
        let taken = self.done.iter_mut().map(|(digest, done)| (digest.to_string(), done.report.take()));
        taken.filter_map(|(digest, report)| Some((digest, report?))).collect()
    }

    /// Decides and publishes. Answers the image's tree at each position, bottom first.
    pub(super) async fn publish(&mut self, shared: &Arc<Shared>, image: &ResolvedImage) -> Result<Vec<TreeName>> {
        let all: Vec<Digest> = image.layers.iter().map(|layer| layer.digest.clone()).collect();
        let (facts, inherited) = self.decide(shared, image, &all).await?;
        let mut trees = Vec::with_capacity(all.len());
        let mut placed: BTreeMap<Digest, TreeName> = BTreeMap::new();
        let mut last_use: BTreeMap<&Digest, usize> = BTreeMap::new();
        for (at, digest) in all.iter().enumerate() {
            last_use.insert(digest, at);
        }
        for (at, (digest, inherited)) in all.iter().zip(inherited).enumerate() {
            let is_last = last_use[digest] == at;
            let tree = match self.done.get(digest).and_then(|done| done.tree.clone()) {
                Some(tree) => tree,
                None => {
                    let lower = holders(&inherited, &placed);
                    let of =
                        Position { digest, at, inherited: Arc::new(inherited), facts: &facts[digest], lower, is_last };
                    self.place(shared, image, of).await.map_err(|error| error.for_layer(digest))?
                }
            };
            placed.insert(digest.clone(), tree.clone());
            trees.push(tree);
        }
        Ok(trees)
    }

    /// What each layer inherits. A layer whose table turns out to be damaged is extracted once more.
    async fn decide(&mut self, shared: &Arc<Shared>, image: &ResolvedImage, all: &[Digest]) -> Result<Decided> {
        let mut extracted = BTreeSet::new();
        loop {
            let (cache, digests) = (shared.cache.clone(), all.to_vec());
            let damaged = match stoppable(&shared.cancel, move |halt| decide(&cache, &digests, halt)).await? {
                Ok(decided) => return Ok(decided),
                Err(damaged) => damaged,
            };
            if !extracted.insert(damaged.clone()) {
                let path = shared.cache.layer(&damaged, LayerFile::Table).display().to_string();
                let reason = "the layer's table is damaged or went away during the pull".to_owned();
                return Err(ErrorKind::Cache { path, reason }.into());
            }
            let at = all.iter().position(|digest| *digest == damaged).unwrap_or_default();
            let done = self.extract(shared, image, at).await?;
            self.add(done);
        }
    }

    /// Extracts a layer whatever the cache has of it.
    async fn extract(&mut self, shared: &Arc<Shared>, image: &ResolvedImage, at: usize) -> Result<Done> {
        let mut job = LayerJob::new(&image.layers[at], &image.config.diff_ids[at]);
        job.indices.push(at);
        job.must_extract = true;
        let permit = tokio::select! {
            permit = shared.share.layer() => permit,
            () = shared.cancel.cancelled() => return Err(ImageError::aborted()),
        };
        let done = job.run(Arc::clone(shared), permit).await?;
        self.downloaded |= done.downloaded;
        Ok(done)
    }

    /// Publishes the tree of one position, or finds it. A tree that is missing is copied from one that this pull made, or
    /// extracted once more.
    async fn place(&mut self, shared: &Arc<Shared>, image: &ResolvedImage, of: Position<'_>) -> Result<TreeName> {
        let waiting = self.done.get_mut(of.digest).and_then(|done| done.waiting.take());
        let is_made = waiting.is_some();
        let mut placed = place_one(shared, &of, waiting).await?;
        if placed.is_none()
            && let Some(made) = self.made.get(of.digest).cloned()
        {
            let (cache, lease) = (shared.cache.clone(), shared.lease.clone());
            let scratch = stoppable(&shared.cancel, move |halt| Scratch::copy_of(&cache, &made, &lease, halt)).await?;
            let copy = Waiting { scratch, is_new: false, with_index: shared.options.index, told: None };
            placed = place_one(shared, &of, Some(copy)).await?;
        }
        let placed = match placed {
            Some(tree) => tree,
            None => {
                let done = self.extract(shared, image, of.at).await?;
                let placed = place_one(shared, &of, done.waiting).await?;
                placed.ok_or_else(|| ImageError::internal("a layer that was extracted has no tree"))?
            }
        };
        if is_made {
            self.made.insert(of.digest.clone(), placed.clone());
        }
        Ok(placed)
    }
}

/// A layer at one place of the image.
struct Position<'a> {
    digest: &'a Digest,
    at: usize,
    inherited: Arc<Inherited>,
    facts: &'a TableFacts,
    lower: BTreeMap<Digest, TreeName>,
    is_last: bool,
}

type Decided = (BTreeMap<Digest, TableFacts>, Vec<Inherited>);

/// What each layer inherits; the digest of a layer whose table is damaged. Tables are opened only where some layer asks for
/// what is below it.
fn decide(cache: &GlobalCache, all: &[Digest], halt: &Halt) -> Result<std::result::Result<Decided, Digest>> {
    let mut facts = BTreeMap::new();
    for digest in all {
        halt.check()?;
        if !facts.contains_key(digest) {
            let Some(known) = cache.table_facts(digest)? else { return Ok(Err(digest.clone())) };
            facts.insert(digest.clone(), known);
        }
    }
    let Some(top) = all.iter().rposition(|digest| facts[digest].inherits()) else {
        return Ok(Ok((facts, vec![Inherited::default(); all.len()])));
    };
    let mut tables: BTreeMap<&Digest, Arc<Table>> = BTreeMap::new();
    for digest in &all[..=top] {
        halt.check()?;
        if !tables.contains_key(digest) {
            let Some(table) = cache.table(digest) else { return Ok(Err(digest.clone())) };
            tables.insert(digest, Arc::new(table));
        }
    }
    let rows: Vec<TableRows> = all[..=top].iter().map(|digest| TableRows(Arc::clone(&tables[digest]))).collect();
    let mut inherited = inherit(&rows, halt)?;
    inherited.resize(all.len(), Inherited::default());
    Ok(Ok((facts, inherited)))
}

/// The trees of the layers that hold what is inherited: any of a layer's trees holds the same bytes.
fn holders(inherited: &Inherited, placed: &BTreeMap<Digest, TreeName>) -> BTreeMap<Digest, TreeName> {
    let digests = inherited.links.iter().map(|(_, holder)| &holder.digest);
    digests.filter_map(|digest| Some((digest.clone(), placed.get(digest)?.clone()))).collect()
}

async fn place_one(shared: &Arc<Shared>, of: &Position<'_>, waiting: Option<Waiting>) -> Result<Option<TreeName>> {
    let path = shared.cache.layer(of.digest, LayerFile::Lock);
    let lock = Lock::acquire(&path, &lock_wait(&shared.settings, &shared.observer, &shared.cancel)).await?;
    let (cache, facts, inherited) = (shared.cache.clone(), of.facts.clone(), Arc::clone(&of.inherited));
    let lower = of.lower.clone();
    let drops_blob = of.is_last && !shared.options.keep_blobs;
    let blob = shared.cache.layer(of.digest, LayerFile::Blob);
    let wants = Wants {
        index: shared.options.index,
        comparison: shared.options.force || waiting.as_ref().is_some_and(|waiting| waiting.is_new),
    };
    let (mut scratch, told) = match waiting {
        Some(waiting) => (Some(waiting.scratch), waiting.told.map(|told| (told, waiting.with_index))),
        None => (None, None),
    };
    let placed = stoppable(&shared.cancel, move |halt| {
        let mut open: Option<(Digest, Walker)> = None;
        let open_holder = |holder: &Holder| {
            if open.as_ref().is_none_or(|(digest, _)| *digest != holder.digest) {
                let tree =
                    lower.get(&holder.digest).ok_or_else(|| ImageError::internal("a holder is in no lower layer"))?;
                open = Some((holder.digest.clone(), Walker::new(&cache.tree(tree, TreeFile::Tree))?));
            }
            let (_, walker) = open.as_mut().expect("it was just opened");
            open_file(walker, &holder.path)
        };
        let placed = cache.place(&facts, &inherited, &mut scratch, wants, open_holder, halt)?;
        if placed.is_some() && drops_blob {
            remove_file_if_there(&blob)?;
        }
        drop((scratch, lock));
        Ok(placed)
    })
    .await?;
    if let (Some(_), Some((told, with_index))) = (&placed, told) {
        told.published(with_index);
    }
    Ok(placed)
}

/// Runs work off the async threads, and stops it when the pull is stopped: whatever it holds is given back by the time
/// this returns.
pub(super) async fn stoppable<T: Send + 'static>(
    cancel: &CancellationToken,
    work: impl FnOnce(&Halt) -> Result<T> + Send + 'static,
) -> Result<T> {
    if cancel.is_cancelled() {
        return Err(ImageError::aborted());
    }
    let halt = Halt::default();
    let at_work = halt.clone();
    let mut task = tokio::task::spawn_blocking(move || work(&at_work));
    let done = tokio::select! {
        done = &mut task => done,
        () = cancel.cancelled() => {
            halt.abort();
            task.await
        }
    };
    done.map_err(|panic| ImageError::internal(panic_text(panic)))?
}
