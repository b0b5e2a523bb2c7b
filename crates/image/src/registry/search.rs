//! The image for a platform, in an index or in the indexes within it.
//!
//! Entries that name a fitting platform are followed first, the best fit before others; then those that name none,
//! because an index within an index often does not. Attestations, artifacts and entries of unknown media types are never followed.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::{Document, IndexEntry, Manifest, ParsedConfig, Platform},
    registry::{
        fetch::{Fetcher, Served},
        platform::fit,
        resolve::Candidate,
    },
};

/// Indexes within indexes are followed this deep.
const DEEPEST: usize = 4;
/// Manifests and indexes that are fetched in one search.
const MOST_FETCHED: usize = 40;

/// Platforms that an error names, and characters of each.
const MAX_AVAILABLE: usize = 10;
const MAX_PLATFORM_TEXT: usize = 80;
/// Entries looked at before others get their turn.
const BETWEEN_YIELDS: usize = 4096;

/// A manifest with its config.
pub(super) struct Image {
    pub(super) served: Served,
    pub(super) manifest: Manifest,
    pub(super) raw_config: Bytes,
    pub(super) config: ParsedConfig,
    /// What the index said.
    pub(super) platform: Option<Platform>,
    pub(super) reason: String,
}

/// A search under way.
pub(super) struct Search<'a> {
    fetcher: &'a Fetcher<'a>,
    wanted: &'a Platform,
    /// All entries seen.
    pub(super) candidates: Vec<Candidate>,
    seen_in_configs: Vec<Platform>,
}

/// An entry to follow.
struct Step {
    entry: IndexEntry,
    depth: usize,
    /// The platform it, or an index around it, is said to be for.
    platform: Option<Platform>,
    reason: String,
}

impl<'a> Search<'a> {
    pub(super) fn new(fetcher: &'a Fetcher<'a>, wanted: &'a Platform) -> Self {
        Self { fetcher, wanted, candidates: Vec::new(), seen_in_configs: Vec::new() }
    }

    /// The image for the platform among the entries of an index.
    pub(super) async fn run(&mut self, entries: &[IndexEntry]) -> Result<Image> {
        let mut steps = self.steps(entries, 1, None).await;
        let mut fetched = 0;
        while let Some(step) = steps.pop() {
            fetched += 1;
            if fetched > MOST_FETCHED {
                return Err(manifest_error("its indexes have too many entries without a platform"));
            }
            let served = match self.fetcher.pointed_to(&step.entry.descriptor).await {
                Ok(served) => served,
                // What names no platform need not be an image, nor be there.
                Err(error) if step.platform.is_none() && is_about_the_entry(&error) => continue,
                Err(error) => return Err(error),
            };
            if let Document::Index(entries) = &served.document {
                if step.depth >= DEEPEST {
                    return Err(manifest_error("its indexes are nested too deeply"));
                }
                let inner = self.steps(entries, step.depth + 1, step.platform.as_ref()).await;
                steps.extend(inner);
                continue;
            }
            let image = self.load(served, step.platform, step.reason).await?;
            match &image.config.platform {
                Some(named) if image.platform.is_none() && fit(self.wanted, named).is_none() => {
                    self.seen_in_configs.push(named.clone());
                }
                _ => return Ok(image),
            }
        }
        Err(self.nothing_fits().await)
    }

    /// Entries worth following, the best last.
    async fn steps(&mut self, entries: &[IndexEntry], depth: usize, around: Option<&Platform>) -> Vec<Step> {
        self.candidates.extend(entries.iter().map(Candidate::from));
        let mut steps: Vec<(u32, Step)> = Vec::new();
        for (at, entry) in entries.iter().filter(|entry| !entry.attestation && !entry.ignored).enumerate() {
            if at % BETWEEN_YIELDS == 0 {
                tokio::task::yield_now().await;
            }
            let (distance, platform, reason) = match &entry.platform {
                Some(offered) => match fit(self.wanted, offered) {
                    Some(0) => (0, Some(offered.clone()), format!("{offered} is what was wanted")),
                    Some(far) => (far, Some(offered.clone()), format!("{offered} is the best fit for {}", self.wanted)),
                    None => continue,
                },
                None => (u32::MAX, around.cloned(), "its entry names no platform, and none that does fits".to_owned()),
            };
            steps.push((distance, Step { entry: entry.clone(), depth, platform, reason }));
        }
        steps.sort_by_key(|(distance, _)| *distance);
        steps.into_iter().rev().map(|(_, step)| step).collect()
    }

    /// Fetches the config of a manifest.
    pub(super) async fn load(&self, mut served: Served, platform: Option<Platform>, reason: String) -> Result<Image> {
        let Document::Manifest(manifest) = std::mem::replace(&mut served.document, Document::Index(Vec::new())) else {
            return Err(ImageError::internal("an index was taken for a manifest"));
        };
        let raw_config = self.fetcher.config(&manifest.config).await?;
        let config = ParsedConfig::parse(&raw_config)?;
        Ok(Image { served, manifest, raw_config, config, platform, reason })
    }

    /// Says what there is instead, of a great many the first few. Lets others go on in between: whoever waits for this may want
    /// it to stop.
    async fn nothing_fits(&self) -> ImageError {
        let named = self.candidates.iter().filter(|candidate| !candidate.attestation);
        let named = named.filter_map(|candidate| candidate.platform.as_ref()).chain(&self.seen_in_configs);
        let (mut seen, mut available) = (HashSet::new(), Vec::new());
        for (at, platform) in named.enumerate() {
            if at % BETWEEN_YIELDS == 0 {
                tokio::task::yield_now().await;
            }
            if seen.insert(platform) && available.len() < MAX_AVAILABLE {
                available.push(platform.to_string().chars().take(MAX_PLATFORM_TEXT).collect());
            }
        }
        let more = seen.len() - available.len();
        ErrorKind::PlatformNotFound { wanted: self.wanted.to_string(), available, more }.into()
    }
}

fn is_about_the_entry(error: &ImageError) -> bool {
    matches!(error.kind(), ErrorKind::NotFound { .. } | ErrorKind::UnsupportedMediaType { .. })
}

fn manifest_error(reason: &str) -> ImageError {
    ErrorKind::Manifest { reason: reason.to_owned() }.into()
}
