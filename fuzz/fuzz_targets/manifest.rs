//! Manifests, indexes and configs of any bytes: refused, or read with every digest well-formed and every sum in range.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microsandbox_image_core::model::{Descriptor, Document, ParsedConfig};

const TYPES: [Option<&str>; 4] = [
    None,
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.oci.image.index.v1+json; charset=utf-8"),
    Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
];

fuzz_target!(|input: &[u8]| {
    let Some((&content_type, bytes)) = input.split_first() else { return };
    match Document::parse(bytes, TYPES[usize::from(content_type) % TYPES.len()]) {
        Ok((Document::Manifest(manifest), _)) => {
            check(&manifest.config);
            manifest.layers.iter().for_each(check);
            let total = manifest.layers.iter().try_fold(0u64, |total, layer| total.checked_add(layer.size));
            assert!(total.is_some(), "the layers' sizes overflow");
        }
        Ok((Document::Index(entries), _)) => entries.iter().for_each(|entry| check(&entry.descriptor)),
        Err(error) => assert_ne!(error.code(), "ERR_INTERNAL", "{error:?}"),
    }
    if let Err(error) = ParsedConfig::parse(bytes) {
        assert_ne!(error.code(), "ERR_INTERNAL", "{error:?}");
    }
});

fn check(descriptor: &Descriptor) {
    assert!(matches!(descriptor.digest.hex().len(), 64 | 128));
    assert!(descriptor.size < 1 << 53, "a size that JavaScript can't hold");
    if let Some(data) = &descriptor.data {
        assert_eq!(data.len() as u64, descriptor.size);
    }
}
