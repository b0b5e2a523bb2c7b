//! A reference → manifest and config for a platform: what the image consists of, every byte checked.

use bytes::Bytes;

use crate::{
    error::{ErrorKind, Result},
    model::{Descriptor, Digest, Document, IndexEntry, Manifest, ParsedConfig, Platform, Reference},
    progress::Observer,
    registry::{
        blob::Sources,
        client::Client,
        fetch::Fetcher,
        platform::fit,
        retry::{Failure, with_mirrors},
        search::Search,
    },
};

/// What an image consists of.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The platform of the manifest: what the index or the config says, else what was wanted.
    pub platform: Platform,
    /// Digest of the platform's manifest, as served.
    pub manifest_digest: Digest,
    /// Digest of the index it was chosen from.
    pub index_digest: Option<Digest>,
    /// Media type of the manifest.
    pub manifest_media_type: String,
    /// The index as served.
    pub raw_index: Option<Bytes>,
    /// The manifest as served.
    pub raw_manifest: Bytes,
    /// Digest of the config.
    pub config_digest: Digest,
    /// The config as served.
    pub raw_config: Bytes,
    /// The config, parsed.
    pub config: ParsedConfig,
    /// The layers, bottom first; as many as there are diff_ids.
    pub layers: Vec<Descriptor>,
    /// Why this manifest was chosen.
    pub reason: String,
    /// What else there was.
    pub candidates: Vec<Candidate>,
    /// The mirrors that said so; none where the registry itself said all of it.
    pub mirrors: Vec<String>,
}

/// A manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its platform, if it names one.
    pub platform: Option<Platform>,
    /// Its digest.
    pub digest: Digest,
    /// True for an attestation, which is never chosen.
    pub attestation: bool,
}

/// Asks the mirrors, then the registry. An answer of a mirror that leads to no image is as good as none: then the registry is
/// asked for all of it.
pub(super) async fn resolve(
    client: &Client,
    reference: &Reference,
    wanted: &Platform,
    allow_mismatch: bool,
    sources: Sources,
    observer: &dyn Observer,
) -> Result<ResolvedImage> {
    let fetcher = Fetcher::new(client, reference, sources, observer);
    let resolved = resolve_with(&fetcher, wanted, allow_mismatch).await;
    let mirrors = fetcher.into_mirrors();
    match resolved {
        Ok(image) => Ok(ResolvedImage { mirrors, ..image }),
        Err(error) if mirrors.is_empty() => Err(error),
        // The registry was asked and is not there: it would not be for the rest.
        Err(error) if Failure::is_silence(&error) => Err(with_mirrors(error, &mirrors)),
        Err(error) => {
            tracing::warn!(%error, ?mirrors, "what a mirror says leads to no image; asking the registry");
            let fetcher = Fetcher::new(client, reference, Sources::Origin, observer);
            let resolved = resolve_with(&fetcher, wanted, allow_mismatch).await;
            resolved.map_err(|error| with_mirrors(error, &mirrors))
        }
    }
}

async fn resolve_with(fetcher: &Fetcher<'_>, wanted: &Platform, allow_mismatch: bool) -> Result<ResolvedImage> {
    let mut search = Search::new(fetcher, wanted);
    let named = fetcher.named().await?;
    let (image, index) = match &named.document {
        Document::Index(entries) => {
            let image = search.run(entries).await?;
            (image, Some((named.digest, named.bytes)))
        }
        Document::Manifest(_) => {
            let reason = "the reference names a single manifest".to_owned();
            (search.load(named, None, reason).await?, None)
        }
    };
    check_layers(&image.manifest, &image.config)?;
    let platform = settle_platform(wanted, image.platform, &image.config, allow_mismatch)?;
    let (index_digest, raw_index) = index.unzip();
    Ok(ResolvedImage {
        platform,
        manifest_digest: image.served.digest,
        index_digest,
        manifest_media_type: image.served.media_type,
        raw_index,
        raw_manifest: image.served.bytes,
        config_digest: image.manifest.config.digest,
        raw_config: image.raw_config,
        config: image.config,
        layers: image.manifest.layers,
        reason: image.reason,
        candidates: search.candidates,
        mirrors: Vec::new(),
    })
}

fn settle_platform(
    wanted: &Platform,
    from_index: Option<Platform>,
    config: &ParsedConfig,
    allow_mismatch: bool,
) -> Result<Platform> {
    let Some(named) = &config.platform else { return Ok(from_index.unwrap_or_else(|| wanted.clone())) };
    let fits = fit(wanted, named).is_some()
        || (from_index.is_some() && named.os == wanted.os && named.architecture == wanted.architecture);
    if !fits && !allow_mismatch {
        let (wanted, available) = (wanted.to_string(), vec![named.to_string()]);
        return Err(ErrorKind::PlatformNotFound { wanted, available, more: 0 }.into());
    }
    Ok(from_index.unwrap_or_else(|| named.clone()))
}

fn check_layers(manifest: &Manifest, config: &ParsedConfig) -> Result<()> {
    let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids.len());
    if layers != diff_ids {
        let reason = format!("it has {diff_ids} diff_ids for {layers} layers");
        return Err(ErrorKind::Config { reason }.into());
    }
    Ok(())
}

impl From<&IndexEntry> for Candidate {
    fn from(entry: &IndexEntry) -> Self {
        let digest = entry.descriptor.digest.clone();
        Self { platform: entry.platform.clone(), digest, attestation: entry.attestation }
    }
}
