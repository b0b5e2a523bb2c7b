//! What the tests of the registry share.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses its own part")]

pub mod images;
pub mod server;
pub mod world;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use microsandbox_image_core::{
    ImageError, Platform, Reference,
    budget::FurtherConnections,
    model::Descriptor,
    progress::{Event, Observer, Unobserved},
    registry::{BlobStream, Client, ClientOptions, CredentialSource, ResolvedImage, Sources},
};

pub use images::Store;
pub use server::{End, Reply, Request, Server};

/// Options that look at nothing outside the test, and are impatient.
pub fn options() -> ClientOptions {
    ClientOptions {
        credentials: CredentialSource::None,
        connect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_millis(300),
        retries: 3,
        ..ClientOptions::default()
    }
}

pub fn client(options: ClientOptions) -> Client {
    Client::new(options).unwrap()
}

pub fn reference(host: &str) -> Reference {
    Reference::parse(&format!("{host}/team/app:latest")).unwrap()
}

pub fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

pub async fn resolve(client: &Client, host: &str) -> Result<ResolvedImage, ImageError> {
    client.resolve(&reference(host), &amd64(), false, &Unobserved).await
}

/// A descriptor of bytes.
pub fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: images::OCI_LAYER.to_owned(),
        digest: images::sha256(bytes),
        size: bytes.len() as u64,
        data: None,
    }
}

/// Reads a blob from an offset to its end.
pub async fn read_blob(client: &Client, host: &str, blob: &Descriptor, offset: u64) -> Result<Vec<u8>, ImageError> {
    read_blob_watched(client, host, blob, offset, Arc::new(Unobserved)).await
}

pub async fn read_blob_watched(
    client: &Client,
    host: &str,
    blob: &Descriptor,
    offset: u64,
    observer: Arc<dyn Observer>,
) -> Result<Vec<u8>, ImageError> {
    read_stream(client.open_blob(&reference(host), blob, offset, Sources::All, observer)).await
}

/// Reads a blob over as many connections as there are permits beside the first.
pub async fn read_blob_over(
    client: &Client,
    host: &str,
    blob: &Descriptor,
    further: &FurtherConnections,
) -> Result<Vec<u8>, ImageError> {
    let stream = client.open_blob(&reference(host), blob, 0, Sources::All, Arc::new(Unobserved));
    read_stream(stream.with_further_connections(further.clone())).await
}

async fn read_stream(mut stream: BlobStream) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    while let Some(more) = stream.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

/// Bytes that no two places of are alike.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Remembers events.
#[derive(Default)]
pub struct Watch(pub Mutex<Vec<Event>>);

impl Observer for Watch {
    fn notify(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}
