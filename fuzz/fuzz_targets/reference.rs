//! Names of images, platforms and digests: refused, or read as something whose text is read as the same thing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microsandbox_image_core::{Digest, Platform, Reference};

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(reference.as_str()).expect("what was printed can be read");
        assert_eq!(again.as_str(), reference.as_str());
        assert_eq!(
            (again.registry(), again.repository(), again.tag(), again.digest()),
            (reference.registry(), reference.repository(), reference.tag(), reference.digest())
        );
        for part in [reference.registry(), reference.repository()] {
            assert!(!part.is_empty() && !part.contains("..") && !part.contains(char::is_whitespace), "{part:?}");
        }
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(Digest::parse(&digest.to_string()).expect("what was printed can be read"), digest);
        let safe = digest.to_path_safe();
        assert!(safe.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{safe:?}");
    }
    if let Ok(platform) = Platform::parse(text) {
        let again = Platform::parse(&platform.to_string()).expect("what was printed can be read");
        assert_eq!(again, platform);
    }
});
