//! What a tenant's login was shown to have access to: one file for each (scope, registry, repository, digest), of layers and
//! of manifests. Its name is a hash, so that it tells of no tenant and no repository, and its content is the digest.
//!
//! A file is only ever written after the registry said yes. One that is lost costs a request.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use crate::{
    error::{ImageError, Result},
    fs::{
        Content, Lock, LockWait, directory_is_there, make_directory, publish_private_file, read_trusted,
        remove_file_if_there, stat_if_there,
    },
    model::{Algorithm, Digest, Platform, Reference},
    store::{CachedImageMetadata, GlobalCache, LayerFile, Lookup, inventory::Inventory},
};

/// A longer file is none of ours: a digest and a line end.
const MAX_PROOF: u64 = 256;

/// A tenant, and the repository in which something was shown to be accessible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessScope {
    scope: String,
    registry: String,
    repository: String,
}

impl AccessScope {
    /// The tenant named `scope`, where `reference` is.
    pub(crate) fn new(scope: &str, reference: &Reference) -> Self {
        let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
        Self { scope: scope.to_owned(), registry, repository }
    }

    fn key(&self, digest: &Digest) -> String {
        let digest = digest.to_string();
        let mut bytes = Vec::new();
        for part in [&self.scope, &self.registry, &self.repository, &digest] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Digest::of(Algorithm::Sha256, &bytes).hex().to_owned()
    }
}

impl GlobalCache {
    fn access_dir(&self) -> PathBuf {
        self.directory().join("access")
    }

    /// [`cache_status`](Self::cache_status) for a tenant: a miss unless manifest and layers are all proven.
    pub(crate) fn cache_status_for(
        &self,
        scope: Option<&AccessScope>,
        reference: &Reference,
        platform: &Platform,
        any_platform: bool,
    ) -> Result<Lookup> {
        let status = self.cache_status(reference, platform, any_platform)?;
        let (Some(scope), Lookup::Hit(metadata) | Lookup::Doubtful(metadata)) = (scope, &status) else {
            return Ok(status);
        };
        Ok(if self.is_proven_image(scope, metadata)? { status } else { Lookup::Miss })
    }

    fn is_proven_image(&self, scope: &AccessScope, metadata: &CachedImageMetadata) -> Result<bool> {
        let layers: BTreeSet<&Digest> = metadata.layers.iter().map(|layer| &layer.digest).collect();
        for digest in std::iter::once(&metadata.manifest_digest).chain(layers) {
            if !self.is_proven(scope, digest)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True if access to this digest was proven. `ERR_CACHE` if somebody who is not trusted says so.
    pub(crate) fn is_proven(&self, scope: &AccessScope, digest: &Digest) -> Result<bool> {
        let (trust, directory) = (self.trust()?, self.access_dir());
        if !directory_is_there(&directory, &trust)? {
            return Ok(false);
        }
        let path = directory.join(scope.key(digest));
        let Some(there) = stat_if_there(&path)?.filter(fs::Metadata::is_file) else { return Ok(false) };
        trust.check(&path, &there)?;
        Ok(true)
    }

    /// Remembers that access to this digest was proven.
    pub(crate) fn record_access(&self, scope: &AccessScope, digest: &Digest) -> Result<()> {
        if self.is_proven(scope, digest)? {
            return Ok(());
        }
        let directory = self.access_dir();
        if !directory_is_there(&directory, &self.trust()?)? {
            // Another pull may be making it.
            make_directory(&directory).or_else(|error| match directory_is_there(&directory, &self.trust()?) {
                Ok(true) => Ok(()),
                _ => Err(error),
            })?;
        }
        publish_private_file(&directory.join(scope.key(digest)), format!("{digest}\n").as_bytes())
    }

    /// True if the cache has anything of a layer that a pull would use.
    pub(crate) fn has_any_of(&self, digest: &Digest) -> Result<bool> {
        for file in [LayerFile::Table, LayerFile::Tree, LayerFile::Blob, LayerFile::Part] {
            if stat_if_there(&self.layer(digest, file))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what is remembered of layers and manifests that are gone, and what crashes left. `inventory` may be older.
    pub(super) fn remove_stale_access(&self, inventory: &Inventory, wait: &LockWait) -> Result<()> {
        let (trust, directory) = (self.trust()?, self.access_dir());
        if !directory_is_there(&directory, &trust)? {
            return Ok(());
        }
        let images = inventory.images.iter().filter(|image| image.path.symlink_metadata().is_ok());
        let manifests: BTreeSet<&Digest> =
            images.filter_map(|image| image.metadata.as_ref()).map(|metadata| &metadata.manifest_digest).collect();
        let list = fs::read_dir(&directory).map_err(|error| ImageError::io("list", &directory, error))?;
        for entry in list {
            wait.check()?;
            let entry = entry.map_err(|error: io::Error| ImageError::io("list", &directory, error))?;
            let (path, name) = (entry.path(), entry.file_name());
            let stale = match name.to_str().map(kind_of) {
                // Its writer holds its lock.
                Some(Kind::Unfinished) => !Lock::is_held(&path).unwrap_or(true),
                Some(Kind::Proof) => match read_trusted(&path, &trust, MAX_PROOF) {
                    Ok(Content::Bytes(bytes)) => {
                        let digest = std::str::from_utf8(&bytes).ok().and_then(|text| Digest::parse(text.trim()).ok());
                        match digest {
                            Some(digest) => !manifests.contains(&digest) && !self.has_any_of(&digest)?,
                            None => true,
                        }
                    }
                    // What somebody else wrote stays.
                    _ => false,
                },
                Some(Kind::Foreign) | None => false,
            };
            if stale {
                remove_file_if_there(&path)?;
            }
        }
        Ok(())
    }
}

/// What a name below `access/` is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Proof,
    Unfinished,
    Foreign,
}

fn kind_of(name: &str) -> Kind {
    let is_key = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match name.split_once('.') {
        None if is_key(name) => Kind::Proof,
        Some((key, rest)) if is_key(key) && rest.ends_with(".part") => Kind::Unfinished,
        _ => Kind::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn scope(name: &str, reference: &str) -> AccessScope {
        AccessScope::new(name, &Reference::parse(reference).unwrap())
    }

    #[test]
    fn a_proof_is_of_one_scope_registry_repository_and_digest_wherever_their_names_end() {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(temp.path());
        let (digest, other) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha256, b"b"));
        let a = scope("a", "r.example/team/app:1");
        cache.record_access(&a, &digest).unwrap();
        assert!(cache.is_proven(&a, &digest).unwrap());
        assert!(cache.is_proven(&scope("a", "r.example/team/app:2"), &digest).unwrap(), "a tag is no part of it");
        assert!(!cache.is_proven(&a, &other).unwrap());
        for (name, reference) in [
            ("b", "r.example/team/app:1"),
            ("a", "s.example/team/app:1"),
            ("a", "r.example/team/app2:1"),
            ("ar.example", "r.example/team/app:1"),
        ] {
            assert!(!cache.is_proven(&scope(name, reference), &digest).unwrap(), "{name} {reference}");
        }
        let shifted = |scope: &str, registry: &str| AccessScope {
            scope: scope.to_owned(),
            registry: registry.to_owned(),
            repository: "x".to_owned(),
        };
        assert_ne!(shifted("ab", "c").key(&digest), shifted("a", "bc").key(&digest));
    }

    #[test]
    fn what_is_remembered_is_its_owners_alone_and_names_nobody() {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(temp.path());
        let digest = Digest::of(Algorithm::Sha256, b"a");
        cache.record_access(&scope("tenant", "r.example/team/app"), &digest).unwrap();
        let directory = cache.access_dir();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        let entries: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [path] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(path).unwrap(), format!("{digest}\n"));
        assert_eq!(kind_of(path.file_name().unwrap().to_str().unwrap()), Kind::Proof);
    }

    #[test]
    fn a_proof_that_everybody_could_have_written_or_that_is_a_link_proves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(temp.path());
        let digest = Digest::of(Algorithm::Sha256, b"a");
        let scope = scope("a", "r.example/team/app");
        cache.record_access(&scope, &digest).unwrap();
        let path = cache.access_dir().join(scope.key(&digest));
        let mode = |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&path, 0o666);
        assert_eq!(cache.is_proven(&scope, &digest).unwrap_err().code(), "ERR_CACHE");
        mode(&path, 0o600);
        mode(&cache.access_dir(), 0o777);
        assert_eq!(cache.is_proven(&scope, &digest).unwrap_err().code(), "ERR_CACHE");
        assert_eq!(cache.record_access(&scope, &digest).unwrap_err().code(), "ERR_CACHE");
        mode(&cache.access_dir(), 0o700);
        fs::rename(&path, temp.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(temp.path().join("elsewhere"), &path).unwrap();
        assert!(!cache.is_proven(&scope, &digest).unwrap());
    }
}
