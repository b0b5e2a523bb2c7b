//! A reference → manifest and config for a platform: what the image consists of, every byte checked.

use bytes::Bytes;
use reqwest::{Response, header::CONTENT_TYPE};

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::{Descriptor, Digest, Document, IndexEntry, Manifest, ParsedConfig, Platform, Reference},
    progress::Observer,
    registry::{blob::Sources, client::Client, platform::fit, response::read_body, transport::Ask},
};

const LONGEST_MANIFEST: usize = 4 << 20;
const LONGEST_CONFIG: u64 = 8 << 20;
/// Indexes within indexes are followed this deep.
const DEEPEST_INDEX: usize = 4;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";

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

/// A manifest or index as it was served.
struct Served {
    digest: Digest,
    bytes: Bytes,
    document: Document,
    media_type: String,
}

pub(super) async fn resolve(
    client: &Client,
    reference: &Reference,
    wanted: &Platform,
    allow_mismatch: bool,
    observer: &dyn Observer,
) -> Result<ResolvedImage> {
    let by = reference.digest().map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), Digest::to_string);
    let mut served = fetch(client, reference, &by, reference.digest(), None, observer).await?;
    let mut index = None;
    let mut candidates = Vec::new();
    let mut chosen_platform = None;
    let mut reason = "the reference names a single manifest".to_owned();
    for depth in 0.. {
        let Document::Index(entries) = &served.document else { break };
        if depth == DEEPEST_INDEX {
            return Err(manifest_error("its indexes are nested too deeply"));
        }
        candidates.extend(entries.iter().map(Candidate::from));
        let (entry, why) = choose(entries, wanted)?;
        let (entry, why) = (entry.clone(), why);
        index.get_or_insert((served.digest.clone(), served.bytes.clone()));
        chosen_platform = entry.platform.clone().or(chosen_platform);
        reason = why;
        let digest = entry.digest.to_string();
        served = fetch(client, reference, &digest, Some(&entry.digest), Some(entry.size), observer).await?;
    }
    let Document::Manifest(manifest) = served.document else {
        return Err(manifest_error("an index was left where a manifest must be"));
    };
    let raw_config = fetch_config(client, reference, &manifest, observer).await?;
    let config = ParsedConfig::parse(&raw_config)?;
    check_layers(&manifest, &config)?;
    let platform = settle_platform(wanted, chosen_platform, &config, allow_mismatch)?;
    let (index_digest, raw_index) = index.unzip();
    Ok(ResolvedImage {
        platform,
        manifest_digest: served.digest,
        index_digest,
        manifest_media_type: served.media_type,
        raw_index,
        raw_manifest: served.bytes,
        config_digest: manifest.config.digest.clone(),
        raw_config,
        config,
        layers: manifest.layers,
        reason,
        candidates,
    })
}

async fn fetch(
    client: &Client,
    reference: &Reference,
    by: &str,
    expected: Option<&Digest>,
    size: Option<u64>,
    observer: &dyn Observer,
) -> Result<Served> {
    let path = format!("manifests/{by}");
    let what = format!("manifest {}:{by}", reference.repository());
    let what = if expected.is_some() { what.replacen(":sha", "@sha", 1) } else { what };
    let ask = Ask { repository: reference.repository(), path: &path, accept: Some(ACCEPT), from: 0, what: &what };
    let (response, endpoint) = client.ask(reference, &ask, Sources::All, &mut 0, observer).await?;
    let header = |name: &str, response: &Response| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let content_type = header(CONTENT_TYPE.as_str(), &response);
    let claimed = header("docker-content-digest", &response);
    let stall = client.transport.options.stall_timeout;
    let bytes = read_body(response, LONGEST_MANIFEST, stall, &endpoint.host, &what).await?;
    let claimed = claimed.map(|text| Digest::parse(&text)).transpose()?;
    let algorithm = expected.or(claimed.as_ref()).map_or(crate::model::Algorithm::Sha256, Digest::algorithm);
    let digest = Digest::of(algorithm, &bytes);
    if let Some(expected) = expected.or(claimed.as_ref()).filter(|expected| **expected != digest) {
        return Err(mismatch(&what, expected.to_string(), digest.to_string()));
    }
    if let Some(size) = size.filter(|size| *size != bytes.len() as u64) {
        return Err(mismatch(&what, format!("{size} bytes"), format!("{} bytes", bytes.len())));
    }
    let (document, media_type) = Document::parse(&bytes, content_type.as_deref())?;
    Ok(Served { digest, bytes, document, media_type })
}

/// The best entry of an index, and why.
fn choose<'a>(entries: &'a [IndexEntry], wanted: &Platform) -> Result<(&'a IndexEntry, String)> {
    let images = || entries.iter().filter(|entry| !entry.attestation);
    let best = images()
        .filter_map(|entry| Some((fit(wanted, entry.platform.as_ref()?)?, entry)))
        .min_by_key(|(distance, _)| *distance);
    if let Some((distance, entry)) = best {
        let offered = entry.platform.as_ref().map(Platform::to_string).unwrap_or_default();
        let why = match distance {
            0 => format!("{offered} is what was wanted"),
            _ => format!("{offered} is the best fit for {wanted}"),
        };
        return Ok((entry, why));
    }
    // An index within an index often names no platform; neither does an index of one image.
    let mut unnamed = images().filter(|entry| entry.platform.is_none());
    if let (Some(only), None) = (unnamed.next(), unnamed.next()) {
        return Ok((only, "it is the only entry without a platform".to_owned()));
    }
    let available = images().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).collect();
    Err(ErrorKind::PlatformNotFound { wanted: wanted.to_string(), available }.into())
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
        return Err(ErrorKind::PlatformNotFound { wanted, available }.into());
    }
    Ok(from_index.unwrap_or_else(|| named.clone()))
}

async fn fetch_config(
    client: &Client,
    reference: &Reference,
    manifest: &Manifest,
    observer: &dyn Observer,
) -> Result<Bytes> {
    let config = &manifest.config;
    if config.size > LONGEST_CONFIG {
        return Err(ErrorKind::Limit {
            limit: "bytes in the image config",
            value: LONGEST_CONFIG,
            option: "none: no real one needs more",
            entry: None,
        }
        .into());
    }
    if let Some(data) = &config.data {
        return Ok(Bytes::copy_from_slice(data));
    }
    let (path, what) = (format!("blobs/{}", config.digest), format!("image config {}", config.digest));
    let ask = Ask { repository: reference.repository(), path: &path, accept: None, from: 0, what: &what };
    let (response, endpoint) = client.ask(reference, &ask, Sources::All, &mut 0, observer).await?;
    let stall = client.transport.options.stall_timeout;
    let bytes = read_body(response, config.size as usize, stall, &endpoint.host, &what).await.map_err(|error| {
        match error.kind() {
            ErrorKind::Limit { .. } => mismatch(&what, format!("{} bytes", config.size), "more".to_owned()),
            _ => error,
        }
    })?;
    let actual = Digest::of(config.digest.algorithm(), &bytes);
    if actual != config.digest {
        return Err(mismatch(&what, config.digest.to_string(), actual.to_string()));
    }
    Ok(bytes)
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
        Self { platform: entry.platform.clone(), digest: entry.digest.clone(), attestation: entry.attestation }
    }
}

fn manifest_error(reason: &str) -> ImageError {
    ErrorKind::Manifest { reason: reason.to_owned() }.into()
}

fn mismatch(what: &str, expected: String, actual: String) -> ImageError {
    ErrorKind::DigestMismatch { what: what.to_owned(), expected, actual }.into()
}
