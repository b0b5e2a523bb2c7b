//! The cache as a value: paths, hits, metadata. It does not download or extract; `pull` does.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{publish_file, remove_file_if_there, step},
    model::{Digest, Platform, Reference},
    store::{
        Written,
        last_use::record_use,
        layout::{LayerFile, Layout, TreeFile, TreeName},
        metadata::{CachedImageMetadata, FORMAT_VERSION},
    },
};

/// What a cache has of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// All of it.
    Hit(CachedImageMetadata),
    /// All of it by name, written before the machine was started for the last time and never known to be on the disk: it has
    /// to be looked through.
    Doubtful(CachedImageMetadata),
    /// Not all of it.
    Miss,
}

/// One cache directory. Making the value touches nothing; the directories are made when something is written.
#[derive(Debug, Clone)]
pub struct GlobalCache(Layout);

impl GlobalCache {
    /// The cache in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self(Layout::new(directory))
    }

    /// Believes what these users (by id) own as well. Without it only what root and the effective user own counts, and for
    /// root what the owner of the cache's directory does.
    #[must_use]
    pub fn with_trusted_owners(mut self, owners: &[u32]) -> Self {
        self.0.trusted_owners = owners.into();
        self
    }

    /// The users given to [`with_trusted_owners`](Self::with_trusted_owners).
    pub fn trusted_owners(&self) -> &[u32] {
        &self.0.trusted_owners
    }

    /// The cache's own directory.
    pub fn directory(&self) -> &Path {
        &self.0.root
    }

    /// Where layers are.
    pub fn layers_dir(&self) -> &Path {
        &self.0.layers
    }

    /// Where images' metadata are.
    pub fn images_dir(&self) -> &Path {
        &self.0.images
    }

    /// The path of a file of a layer.
    pub fn layer(&self, digest: &Digest, file: LayerFile) -> PathBuf {
        self.0.layer(digest, file)
    }

    /// The path of what belongs to one tree of a layer.
    pub fn tree(&self, name: &TreeName, file: TreeFile) -> PathBuf {
        self.0.tree(name, file)
    }

    /// Where the holder of a lease makes a tree.
    pub(crate) fn scratch(&self, digest: &Digest, lease: &str) -> PathBuf {
        self.0.scratch(digest, lease)
    }

    /// The path of a reference's metadata.
    pub fn image_metadata_path(&self, reference: &Reference, platform: &Platform) -> PathBuf {
        self.0.image(reference, platform, ".json")
    }

    /// The path of the lock held while a reference is pulled.
    pub fn image_lock_path(&self, reference: &Reference, platform: &Platform) -> PathBuf {
        self.0.image(reference, platform, ".lock")
    }

    /// True if the layer's tree is there and whole.
    pub fn is_extracted(&self, digest: &Digest) -> bool {
        self.trees_are_finished([TreeName::base(digest)]).unwrap_or(false)
    }

    /// True if all these layers' trees are there and whole.
    pub fn all_layers_extracted<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> bool {
        self.trees_are_finished(digests.into_iter().map(TreeName::base)).unwrap_or(false)
    }

    /// A reference's metadata; `None` if there are none or they are damaged.
    pub fn read_image_metadata(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<CachedImageMetadata>> {
        let path = self.image_metadata_path(reference, platform);
        let Some(bytes) = self.read_metadata_file(&path)? else { return Ok(None) };
        let metadata = CachedImageMetadata::parse(&bytes);
        if metadata.is_none() {
            tracing::warn!(path = %path.display(), "image metadata are damaged and count as not cached");
        }
        Ok(metadata)
    }

    /// Writes a reference's metadata: beside, then renamed. In which boot that was is filled in.
    pub fn write_image_metadata(
        &self,
        reference: &Reference,
        platform: &Platform,
        metadata: &CachedImageMetadata,
    ) -> Result<()> {
        self.prepare()?;
        let path = self.image_metadata_path(reference, platform);
        let written = Written::now(self, metadata);
        let mut metadata = CachedImageMetadata { written, ..metadata.clone() };
        // Such metadata are nobody's hit; their age lets look-ups see it.
        if metadata.layers.iter().any(|layer| self.is_never_right(&layer.tree())) {
            metadata.format_version = 1;
        }
        publish_file(&path, &metadata.to_json())
    }

    /// Forgets a reference; its layers stay. Says whether it was there.
    pub fn delete_image_metadata(&self, reference: &Reference, platform: &Platform) -> Result<bool> {
        remove_file_if_there(&self.image_metadata_path(reference, platform))
    }

    /// A hit: metadata for this platform whose layers are all there and can be trusted to be whole. Takes no lock and writes
    /// nothing. Fails with `ERR_CACHE` where the cache, or a part of it, is not of a trusted owner or everybody may write it.
    pub fn lookup(&self, reference: &Reference, platform: &Platform) -> Result<Option<CachedImageMetadata>> {
        Ok(match self.look_up(reference, platform)? {
            Lookup::Hit(metadata) => Some(metadata),
            Lookup::Doubtful(_) | Lookup::Miss => None,
        })
    }

    /// [`lookup`](Self::lookup), and what it would not trust.
    pub fn look_up(&self, reference: &Reference, platform: &Platform) -> Result<Lookup> {
        self.cache_status(reference, platform, false)
    }

    /// [`look_up`](Self::look_up); with `any_platform` also for an image of another platform that was pulled as one for this.
    pub fn cache_status(&self, reference: &Reference, platform: &Platform, any_platform: bool) -> Result<Lookup> {
        if !self.check_directories()? {
            return Ok(Lookup::Miss);
        }
        let Some(metadata) = self.read_image_metadata(reference, platform)? else { return Ok(Lookup::Miss) };
        let other_platform = metadata
            .platform
            .as_ref()
            .is_some_and(|theirs| (&theirs.os, &theirs.architecture) != (&platform.os, &platform.architecture));
        if (other_platform && !any_platform)
            || !self.trees_are_finished(metadata.trees())?
            || !self.names_the_right_trees(&metadata)
        {
            return Ok(Lookup::Miss);
        }
        let settled = self.is_settled(&self.image_metadata_path(reference, platform), &metadata);
        Ok(if settled { Lookup::Hit(metadata) } else { Lookup::Doubtful(metadata) })
    }

    /// False for metadata that are older than keys, or the original's, and that name a layer of which an image may need a
    /// tree of its own: one that has a list of what depends on lower layers, or links to them.
    fn names_the_right_trees(&self, metadata: &CachedImageMetadata) -> bool {
        if metadata.format_version >= FORMAT_VERSION {
            return true;
        }
        let is_listed = |digest: &Digest| {
            let lists = [self.layer(digest, LayerFile::ImplicitDirs), self.old_links(digest)];
            metadata.format_version == 1 && lists.iter().any(|list| list.symlink_metadata().is_ok())
        };
        !metadata.layers.iter().any(|layer| self.is_never_right(&layer.tree()) || is_listed(&layer.digest))
    }

    /// The list of hard links to lower layers that older versions wrote.
    pub(super) fn old_links(&self, digest: &Digest) -> PathBuf {
        self.layers_dir().join(digest.to_path_safe() + ".lower_links")
    }

    /// Records that an image was used, at most once an hour, where the cache can be written.
    pub fn record_use(&self, reference: &Reference, platform: &Platform) {
        record_use(&self.image_metadata_path(reference, platform));
    }

    /// Makes the directories, for their owner alone, and refuses those that others could have prepared.
    pub fn prepare(&self) -> Result<()> {
        for directory in [&self.0.root, &self.0.layers, &self.0.images] {
            step("create", directory);
            match fs::DirBuilder::new().mode(0o700).recursive(directory == &self.0.root).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(ImageError::io("create the cache directory", directory, error));
                }
                _ => {}
            }
        }
        self.check()?;
        [self.layers_dir(), self.images_dir()].into_iter().try_for_each(check_writable)
    }
}

/// Says at once, and in plain words, that this user may not write a cache.
fn check_writable(directory: &Path) -> Result<()> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    match accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Err(rustix::io::Errno::ACCESS) => {
            let reason = "this user may not write it; choose a cache directory of your own".to_owned();
            Err(ErrorKind::Cache { path: directory.display().to_string(), reason }.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_planted_link_in_place_of_a_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let (root, victim) = (temp.path().join("cache"), temp.path().join("victim"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&victim).unwrap();
        std::os::unix::fs::symlink(&victim, root.join("layers")).unwrap();
        let error = GlobalCache::new(&root).prepare().unwrap_err();
        assert_eq!(error.code(), "ERR_CACHE");
    }

    #[test]
    fn the_directories_are_their_owners_alone() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("new/cache dir");
        GlobalCache::new(&root).prepare().unwrap();
        for directory in [root.clone(), root.join("layers"), root.join("images")] {
            assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700, "{directory:?}");
        }
    }
}
