//! The registry's side: resolve a reference, hand out blobs. One door; nothing outside knows who speaks HTTP.
//!
//! `oci-client` gives the grammar of references and the registry's error envelope; requests go through a small transport
//! over `reqwest`, because the promises made here (who sees a credential, which redirects are followed, how long a body
//! may be, what is tried again) are not in `oci-client`'s hands.
//!
//! The module trusts nothing a server says but what hashes to a digest.

mod access;
mod auth;
mod blob;
mod client;
mod connections;
mod endpoint;
mod fetch;
mod loopback;
mod mirror;
mod options;
mod parts;
mod pinned;
mod platform;
mod proxy;
mod range;
mod redirect;
mod resolve;
mod response;
mod retry;
mod reuse;
mod scheme;
mod search;
mod tls;
mod transport;
mod tries;

pub use auth::{CredentialProvider, RegistryAuth, Secret};
pub use blob::{BlobStream, Sources};
pub use client::Client;
pub use options::{ClientOptions, CredentialSource, Environment, Insecure, ProxySetting};
pub use resolve::{Candidate, ResolvedImage};
