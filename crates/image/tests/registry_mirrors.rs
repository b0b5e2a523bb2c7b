//! Mirrors that are stale, incomplete or no registries: what they say is as good as nothing where it leads to no image.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use microsandbox_image_core::{
    GlobalCache, ImageError, PullOptions, PullResult, Reference, Registry, Settings,
    progress::{Event, Unobserved},
    registry::ClientOptions,
};
use support::{
    End, Reply, Server, Store, Watch, client, describe,
    images::{OCI_INDEX, OCI_MANIFEST, descriptor, platform_field, sha256},
    noise, options, read_blob, resolve,
};
use tokio_util::sync::CancellationToken;

fn layer(name: &str) -> Vec<u8> {
    let mut made = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    made.append_data(&mut header, format!("opt/{name}"), &b"text"[..]).unwrap();
    made.into_inner().unwrap()
}

/// A store whose `latest` is an image of layers of these names, and the paths of all its blobs.
fn image(names: &[&str]) -> (Store, Vec<String>) {
    let layers: Vec<_> = names.iter().map(|name| layer(name)).collect();
    let layers: Vec<_> = layers.iter().map(Vec::as_slice).collect();
    let paths = layers.iter().map(|layer| format!("blobs/{}", sha256(layer))).collect();
    (Store::with_image(&layers), paths)
}

/// A registry that one mirror stands before.
fn mirrored(origin: &Server, mirror: &Server) -> ClientOptions {
    let mirrors = BTreeMap::from([(origin.host.clone(), vec![format!("http://{}", mirror.host)])]);
    ClientOptions { mirrors, ..options() }
}

fn serve(store: Store) -> Server {
    Server::start(move |request| store.reply(request))
}

/// Answers that lead to no image for linux/amd64.
fn useless() -> Vec<(&'static str, Server)> {
    let mut stale = Store::default();
    let manifest = stale.image("linux/amd64", &[&layer("stale")]);
    let mut lacking = Store::default();
    lacking.tag("latest", OCI_MANIFEST, &manifest);
    let mut other = Store::default();
    let arm = other.image("linux/arm64", &[&layer("arm")]);
    other.tag("latest", OCI_MANIFEST, &arm);
    let mut without = Store::default();
    let index = without.index(&[descriptor(OCI_MANIFEST, &arm, &platform_field("linux/arm64"))]);
    without.tag("latest", OCI_INDEX, &index);
    let mut pointing = Store::default();
    let index = pointing.index(&[descriptor(OCI_MANIFEST, &manifest, &platform_field("linux/amd64"))]);
    pointing.tag("latest", OCI_INDEX, &index);
    vec![
        ("a stale manifest whose config nobody has", serve(lacking)),
        ("a manifest of another platform", serve(other)),
        ("an index without ours", serve(without)),
        ("an index whose manifest nobody has", serve(pointing)),
        ("a page", Server::start(|_| Reply::new(200, "<html>log in</html>").with("content-type", "text/html"))),
    ]
}

#[tokio::test]
async fn a_mirror_whose_answer_leads_to_no_image_is_as_good_as_none() {
    for (name, mirror) in useless() {
        let (store, _) = image(&["good"]);
        let good = store.clone();
        let origin = serve(good);
        let resolved = resolve(&client(mirrored(&origin, &mirror)), &origin.host).await;
        let image = resolved.unwrap_or_else(|error| panic!("{name}: {error}"));
        let alone = resolve(&client(options()), &origin.host).await.unwrap();
        assert_eq!(image.manifest_digest, alone.manifest_digest, "{name}");
        assert!(image.mirrors.is_empty(), "{name}: {:?}", image.mirrors);
        assert!(!mirror.asked("/manifests/latest").is_empty(), "{name}");
    }
}

#[tokio::test]
async fn an_error_names_the_mirror_whose_answer_led_to_no_image() {
    let [(_, mirror), ..] = &useless()[..] else { unreachable!() };
    let origin = serve(Store::default());
    let error = resolve(&client(mirrored(&origin, mirror)), &origin.host).await.unwrap_err();
    assert_eq!(error.code(), "ERR_NOT_FOUND");
    assert!(error.to_string().contains(&mirror.host), "{error}");
}

#[tokio::test]
async fn a_page_of_any_length_in_place_of_a_blob_is_as_good_as_none() {
    let blob = noise(5000);
    for (length, end) in [(100, End::Whole), (100, End::Chunked), (9000, End::Whole), (9000, End::Chunked)] {
        let page = noise(length + 1)[1..].to_vec();
        let mirror = Server::start(move |_| Reply::new(200, page.clone()).ending(end));
        let origin = serve(Store::with_image(&[&blob]));
        let read = read_blob(&client(mirrored(&origin, &mirror)), &origin.host, &describe(&blob), 0).await;
        // Bytes of the page may be in it: the digest of the whole tells, and the registry alone is asked again.
        assert_eq!(read.map(|bytes| bytes.len()).map_err(|error| error.to_string()), Ok(5000), "{length} {end:?}");
    }
}

async fn pull(
    origin: &Server,
    mirror: &Server,
    observer: Arc<Watch>,
) -> Result<(PullResult, tempfile::TempDir), ImageError> {
    let temp = tempfile::tempdir().unwrap();
    let cache = GlobalCache::new(temp.path());
    let registry = Registry::new(cache, support::amd64(), mirrored(origin, mirror), Settings::default()).unwrap();
    let reference = Reference::parse(&format!("{}/team/app:latest", origin.host)).unwrap();
    let pulled = registry.pull(&reference, &PullOptions::default(), observer, CancellationToken::new()).await?;
    Ok((pulled, temp))
}

#[tokio::test]
async fn a_page_in_place_of_a_layer_costs_no_pull() {
    let (store, _) = image(&["good"]);
    let copy = store.clone();
    let mirror = Server::start(move |request| {
        let reply = copy.reply(request);
        let is_layer = request.path.contains("/blobs/") && !reply.body.starts_with(b"{");
        if is_layer { Reply::new(200, "<p>".repeat(4000)).ending(End::Chunked) } else { reply }
    });
    let origin = serve(store);
    let (pulled, _cache) = pull(&origin, &mirror, Arc::default()).await.unwrap();
    assert!(pulled.layers[0].join("opt/good").exists());
}

#[tokio::test]
async fn a_layer_that_nobody_has_is_asked_of_the_registry_and_then_the_image_is_resolved_there() {
    let (mut stale, paths) = image(&["shared", "gone"]);
    stale.remove(&paths[1]);
    let mirror = serve(stale);
    let (good, _) = image(&["shared", "new"]);
    let origin = serve(good);
    let watch = Arc::new(Watch::default());
    let (pulled, _cache) = pull(&origin, &mirror, Arc::clone(&watch)).await.unwrap();
    assert!(pulled.layers[1].join("opt/new").exists());
    let events = watch.0.lock().unwrap();
    let resolved = events.iter().filter_map(|event| match event {
        Event::Resolved { manifest_digest, .. } => Some(manifest_digest.to_string()),
        _ => None,
    });
    let resolved: Vec<_> = resolved.collect();
    assert!(resolved.len() == 2 && resolved[1] == pulled.manifest_digest.to_string(), "{resolved:?}");
    let asked: Vec<_> = origin.requests().into_iter().map(|request| request.path).collect();
    let at = |text: &str| asked.iter().position(|path| path.ends_with(text));
    assert!(at(&paths[1]).is_some() && at(&paths[1]) < at("/manifests/latest"), "{asked:?}");
    // What was downloaded is not downloaded again, and counts of no layer fall.
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for event in events.iter() {
        if let Event::LayerDownloadProgress { digest, downloaded_bytes, .. }
        | Event::LayerDownloadComplete { digest, downloaded_bytes, .. } = event
        {
            let before = counts.insert(digest.to_string(), *downloaded_bytes).unwrap_or(0);
            assert!(before <= *downloaded_bytes, "{events:?}");
        }
    }
}

#[tokio::test]
async fn a_layer_that_nobody_has_is_an_error_where_the_registry_says_the_same() {
    let (mut store, paths) = image(&["good", "gone"]);
    store.remove(&paths[1]);
    let (mirror, origin) = (serve(store.clone()), serve(store));
    let watch = Arc::new(Watch::default());
    let error = pull(&origin, &mirror, Arc::clone(&watch)).await.err().unwrap();
    assert_eq!(error.code(), "ERR_NOT_FOUND");
    assert!(error.to_string().contains(&mirror.host), "{error}");
    let events = watch.0.lock().unwrap();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Resolved { .. })).count(), 1);
}

#[tokio::test]
async fn a_registry_without_mirrors_is_asked_once() {
    let (mut store, paths) = image(&["gone"]);
    store.remove(&paths[0]);
    let origin = serve(store);
    let temp = tempfile::tempdir().unwrap();
    let registry =
        Registry::new(GlobalCache::new(temp.path()), support::amd64(), options(), Settings::default()).unwrap();
    let reference = Reference::parse(&format!("{}/team/app:latest", origin.host)).unwrap();
    let never = CancellationToken::new();
    let error = registry.pull(&reference, &PullOptions::default(), Arc::new(Unobserved), never).await.err().unwrap();
    assert_eq!(error.code(), "ERR_NOT_FOUND");
    assert_eq!(origin.asked("/manifests/latest").len(), 1);
}

#[tokio::test]
async fn head_is_asked_of_nobody() {
    let (store, _) = image(&["good"]);
    let refuse = move |store: Store| {
        Server::start(move |request| match request.method.as_str() {
            "GET" => store.reply(request),
            _ => Reply::new(405, ""),
        })
    };
    let (mirror, origin) = (refuse(Store::default()), refuse(store));
    pull(&origin, &mirror, Arc::default()).await.unwrap();
    let methods = [&mirror, &origin].map(|server| server.requests()).into_iter().flatten();
    assert!(methods.into_iter().all(|request| request.method == "GET"));
}
