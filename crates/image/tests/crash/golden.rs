//! What undisturbed pulls publish: with it whatever has a final name is compared.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use microsandbox_image_core::GlobalCache;

use crate::{
    look::{self, Tree},
    scenario::Scenario,
    world::{IMAGES, World, pull},
};

/// Trees and files by their final names, and which trees each image has.
pub struct Golden {
    pub trees: BTreeMap<String, Tree>,
    /// Tables and lists.
    pub files: BTreeMap<String, Vec<u8>>,
    images: BTreeMap<&'static str, Vec<String>>,
}

impl Golden {
    /// Pulls all images, one after the other, into one cache.
    pub fn new(world: &World) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("golden");
        let mut images = BTreeMap::new();
        for image in IMAGES {
            let result = pull(&directory, &world.reference(image), &Scenario::default()).unwrap();
            images.insert(image, result.layers.iter().map(|path| name_of(path)).collect());
        }
        let (mut trees, mut files) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir(GlobalCache::new(&directory).layers_dir()).unwrap() {
            let path = entry.unwrap().path();
            let name = name_of(&path);
            if name.ends_with(".extracted") {
                trees.insert(name, look::tree(&path));
            } else if [".table", ".inherited", ".implicit_dirs"].iter().any(|suffix| name.ends_with(suffix)) {
                files.insert(name, fs::read(path).unwrap());
            }
        }
        Self { trees, files, images }
    }

    /// The layers of a pulled image are those of an undisturbed pull, by name and by content.
    pub fn assert_right(&self, image: &str, layers: &[PathBuf], case: &str) {
        let names: Vec<String> = layers.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, self.images[image], "{case}: the image has other trees");
        for path in layers {
            assert!(look::tree(path) == self.trees[&name_of(path)], "{case}: {} is not right", path.display());
        }
    }
}

pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
