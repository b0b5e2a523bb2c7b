//! The registry's side: resolve a reference, hand out blobs. One door; nothing outside knows who speaks HTTP.
