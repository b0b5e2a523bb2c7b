//! From a reference to an image for a platform: what is chosen, and what is refused.

mod support;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use microsandbox_image_core::{
    Digest, Platform, Reference, model::Algorithm, progress::Unobserved, registry::ResolvedImage,
};
use support::{
    End, Reply, Server, Store, client,
    images::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, platform_field, sha256},
    noise, options, resolve,
};

async fn resolve_for(store: Store, platform: &str) -> Result<ResolvedImage, microsandbox_image_core::ImageError> {
    let server = Server::start(move |request| store.reply(request));
    let platform = Platform::parse(platform).unwrap();
    client(options()).resolve(&support::reference(&server.host), &platform, false, &Unobserved).await
}

/// A store whose `latest` is an index of images for these platforms.
fn multi(platforms: &[&str]) -> (Store, Vec<Digest>) {
    let mut store = Store::default();
    let manifests: Vec<_> = platforms.iter().map(|platform| store.image(platform, &[&noise(10)])).collect();
    let entries: Vec<_> = platforms
        .iter()
        .zip(&manifests)
        .map(|(platform, manifest)| descriptor(OCI_MANIFEST, manifest, &platform_field(platform)))
        .collect();
    let index = store.index(&entries);
    store.tag("latest", OCI_INDEX, &index);
    (store, manifests.iter().map(|manifest| sha256(manifest)).collect())
}

#[tokio::test]
async fn the_best_fitting_variant_is_chosen_in_whatever_order_they_come() {
    for (offered, wanted, chosen) in [
        (vec!["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", Some(1)),
        (vec!["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some(1)),
        (vec!["linux/arm/v7", "linux/arm/v5"], "linux/arm/v6", Some(1)),
        (vec!["linux/amd64/v3", "linux/amd64", "linux/amd64/v2"], "linux/amd64/v2", Some(2)),
        (vec!["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some(1)),
        (vec!["windows/amd64", "linux/arm64"], "linux/arm64/v8", Some(1)),
        (vec!["windows/amd64", "linux/arm64"], "linux/amd64", None),
        (vec!["linux/amd64/v3"], "linux/amd64/v2", None),
        (vec![], "linux/amd64", None),
    ] {
        let (store, digests) = multi(&offered);
        let resolved = resolve_for(store, wanted).await;
        match (resolved, chosen) {
            (Ok(image), Some(chosen)) => {
                assert_eq!(image.manifest_digest, digests[chosen], "{wanted} of {offered:?}");
                assert_eq!(image.platform.to_string(), offered[chosen]);
                assert_eq!(image.candidates.len(), offered.len());
                assert_eq!(sha256(&image.raw_manifest), image.manifest_digest);
                assert_eq!(image.index_digest, image.raw_index.as_deref().map(sha256));
                assert!(image.reason.contains(offered[chosen]), "{}", image.reason);
            }
            (Err(error), None) => {
                assert_eq!(error.code(), "ERR_PLATFORM_NOT_FOUND");
                let text = error.to_string();
                assert!(offered.iter().all(|platform| text.contains(platform)) && text.contains(wanted), "{text}");
            }
            (other, _) => panic!("{wanted} of {offered:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn indexes_within_indexes_are_followed_and_attestations_are_not() {
    let mut store = Store::default();
    let arm = store.image("linux/arm64", &[&noise(5)]);
    let amd = store.image("linux/amd64", &[&noise(6)]);
    let mut inner: Vec<_> = [("linux/arm64", &arm), ("linux/amd64", &amd)]
        .iter()
        .map(|(platform, manifest)| store.index(&[descriptor(OCI_MANIFEST, manifest, &platform_field(platform))]))
        .collect();
    for _ in 0..2 {
        inner = inner.iter().map(|index| store.index(&[descriptor(OCI_INDEX, index, "")])).collect();
    }
    let attestation = descriptor(OCI_MANIFEST, b"never fetched", &platform_field("unknown/unknown"));
    let marked = format!(
        r#"{},"annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}"#,
        platform_field("linux/amd64")
    );
    let mut entries = vec![attestation, descriptor(OCI_MANIFEST, b"nor this", &marked)];
    entries.extend(inner.iter().map(|index| descriptor(OCI_INDEX, index, "")));
    let index = store.index(&entries);
    store.tag("latest", OCI_INDEX, &index);
    let image = resolve_for(store.clone(), "linux/amd64").await.unwrap();
    assert_eq!((image.manifest_digest, image.index_digest), (sha256(&amd), Some(sha256(&index))));
    assert_eq!(image.candidates.iter().filter(|candidate| candidate.attestation).count(), 2);
    let error = resolve_for(store.clone(), "linux/s390x").await.unwrap_err();
    assert!(error.to_string().contains("linux/arm64, linux/amd64"), "{error}");

    let mut deep = index;
    for _ in 0..4 {
        deep = store.index(&[descriptor(OCI_INDEX, &deep, "")]);
    }
    store.tag("latest", OCI_INDEX, &deep);
    assert_eq!(resolve_for(store, "linux/amd64").await.unwrap_err().code(), "ERR_MANIFEST");
}

#[tokio::test]
async fn entries_of_unknown_media_types_and_artifacts_are_ignored() {
    let mut store = Store::default();
    let image = store.image("linux/amd64", &[&noise(6)]);
    let platform = platform_field("linux/amd64");
    let artifact = format!(r#"{platform},"artifactType":"application/vnd.example.sbom""#);
    let index = store.index(&[
        descriptor("application/vnd.example.thing+json", b"never fetched", &platform),
        descriptor(OCI_MANIFEST, b"nor this", &artifact),
        descriptor(OCI_MANIFEST, &image, &platform),
    ]);
    store.tag("latest", OCI_INDEX, &index);
    assert_eq!(resolve_for(store, "linux/amd64").await.unwrap().manifest_digest, sha256(&image));
}

#[tokio::test]
async fn a_sparse_index_serves_what_is_there() {
    let (mut store, digests) = multi(&["linux/amd64", "linux/arm64"]);
    store.remove(&format!("manifests/{}", digests[1]));
    assert!(resolve_for(store.clone(), "linux/amd64").await.is_ok());
    assert_eq!(resolve_for(store, "linux/arm64").await.unwrap_err().code(), "ERR_NOT_FOUND");
}

#[tokio::test]
async fn entries_without_a_platform_are_told_apart_by_their_configs() {
    let mut store = Store::default();
    let manifests = ["linux/arm64", "linux/amd64"].map(|platform| store.image(platform, &[&noise(5)]));
    let helm = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
        descriptor("application/vnd.cncf.helm.config.v1+json", b"x", "")
    );
    store.manifest(OCI_MANIFEST, helm.as_bytes());
    let mut entries = vec![descriptor(OCI_MANIFEST, helm.as_bytes(), ""), descriptor(OCI_MANIFEST, b"missing", "")];
    entries.extend(manifests.iter().map(|manifest| descriptor(OCI_MANIFEST, manifest, "")));
    let index = store.index(&entries);
    store.tag("latest", OCI_INDEX, &index);
    let image = resolve_for(store.clone(), "linux/amd64").await.unwrap();
    assert_eq!(image.manifest_digest, sha256(&manifests[1]));
    let error = resolve_for(store, "linux/s390x").await.unwrap_err();
    assert!(error.to_string().contains("linux/arm64, linux/amd64"), "{error}");
}

#[tokio::test]
async fn a_single_manifest_for_another_platform_is_refused_unless_allowed() {
    let store = Store::with_image(&[&noise(5)]);
    let server = Server::start(move |request| store.reply(request));
    let (client, reference) = (client(options()), support::reference(&server.host));
    let arm = Platform::parse("linux/arm64").unwrap();
    let error = client.resolve(&reference, &arm, false, &Unobserved).await.unwrap_err();
    assert_eq!(error.code(), "ERR_PLATFORM_NOT_FOUND");
    let image = client.resolve(&reference, &arm, true, &Unobserved).await.unwrap();
    assert_eq!(image.platform.to_string(), "linux/amd64");
}

#[tokio::test]
async fn served_bytes_must_be_the_ones_that_were_named() {
    let mut store = Store::with_image(&[&noise(5)]);
    let manifest = store.image("linux/amd64", &[&noise(5)]);
    let other = [&manifest[..], b" "].concat();
    let sha512 = Digest::of(Algorithm::Sha512, &manifest);
    store.put(&format!("manifests/{sha512}"), OCI_MANIFEST, &manifest);
    store.put(&format!("manifests/{}", sha256(b"x")), OCI_MANIFEST, &other);
    let header = |digest: Digest| {
        let store = store.clone();
        Server::start(move |request| store.reply(request).with("docker-content-digest", digest.to_string()))
    };
    let (right, wrong) = (header(sha256(&manifest)), header(sha256(b"x")));
    for (server, tail, expected) in [
        (&right, ":latest".to_owned(), Ok(sha256(&manifest))),
        (&right, format!("@{}", sha256(&manifest)), Ok(sha256(&manifest))),
        (&right, format!("@{sha512}"), Ok(sha512.clone())),
        (&right, format!("@{}", sha256(b"x")), Err("ERR_DIGEST_MISMATCH")),
        (&wrong, ":latest".to_owned(), Err("ERR_DIGEST_MISMATCH")),
        (&right, ":none".to_owned(), Err("ERR_NOT_FOUND")),
    ] {
        let reference = Reference::parse(&format!("{}/team/app{tail}", server.host)).unwrap();
        let resolved = client(options()).resolve(&reference, &support::amd64(), false, &Unobserved).await;
        let got = resolved.map(|image| image.manifest_digest).map_err(|error| error.code());
        assert_eq!(got, expected, "{tail}");
    }
}

#[tokio::test]
async fn manifests_and_configs_may_be_long_but_not_endless() {
    let mut store = Store::default();
    let padded = |length: usize| {
        let config = br#"{"rootfs":{"diff_ids":[]}}"#;
        let start = format!(r#"{{"schemaVersion":2,"config":{},"layers":[],"x":""#, descriptor(OCI_CONFIG, config, ""));
        format!("{start}{}\"}}", "a".repeat(length - start.len() - 2))
    };
    store.blob(br#"{"rootfs":{"diff_ids":[]}}"#);
    for (length, code) in [(3_900_000, None), (4 << 20, None), ((4 << 20) + 1, Some("ERR_LIMIT"))] {
        store.tag("latest", OCI_MANIFEST, padded(length).as_bytes());
        let resolved = resolve_for(store.clone(), "linux/amd64").await;
        assert_eq!(resolved.err().map(|error| error.code()), code, "{length}");
    }
    for (end, path) in [(End::Endless, "/manifests/"), (End::Endless, "/blobs/")] {
        let store = Store::with_image(&[]);
        let server = Server::start(move |request| match request.path.contains(path) {
            true => Reply::new(200, "").ending(end),
            false => store.reply(request),
        });
        let error = resolve(&client(options()), &server.host).await.unwrap_err();
        assert!(["ERR_LIMIT", "ERR_DIGEST_MISMATCH"].contains(&error.code()), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_fetched_again() {
    let store = Store::with_image(&[&noise(5)]);
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/" => store.reply(request),
        // Manifest and config break off twice each.
        _ if calls.fetch_add(1, Ordering::Relaxed) % 3 < 2 => store.reply(request).ending(End::Cut(10)),
        _ => store.reply(request),
    });
    resolve(&client(options()), &server.host).await.unwrap();
    assert_eq!((server.asked("/manifests/").len(), server.asked("/blobs/").len()), (3, 3));
}

#[tokio::test]
async fn odd_manifests_are_taken_or_refused_by_name() {
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]}}"#;
    let with = |config: &str, layers: &str| format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
    let good = descriptor(OCI_CONFIG, config, "");
    let layer = |media_type: &str| descriptor(media_type, b"x", "");
    let carried = descriptor(OCI_CONFIG, br#"{"rootfs":{}}"#, r#","data":"eyJyb290ZnMiOnt9fQ==""#);
    let huge = good.replace(r#""size":"#, r#""size":99999999999"#);
    for (name, manifest, expected) in [
        ("no layers", with(&good, ""), Ok(())),
        ("a config carried in the manifest", with(&carried, ""), Ok(())),
        ("fewer diff_ids than layers", with(&good, &layer(OCI_LAYER)), Err("ERR_CONFIG")),
        (
            "an encrypted layer",
            with(&good, &layer("application/vnd.oci.image.layer.v1.tar+encrypted")),
            Err("ERR_UNSUPPORTED_MEDIA_TYPE"),
        ),
        (
            "a chart",
            with(&descriptor("application/vnd.cncf.helm.config.v1+json", config, ""), ""),
            Err("ERR_UNSUPPORTED_MEDIA_TYPE"),
        ),
        ("an absurd size", with(&huge, ""), Err("ERR_LIMIT")),
        ("schema 1", r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), Err("ERR_MANIFEST")),
        ("both kinds at once", r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(), Err("ERR_MANIFEST")),
        ("a web page", "<html>log in</html>".to_owned(), Err("ERR_MANIFEST")),
    ] {
        let mut store = Store::default();
        store.blob(config);
        store.tag("latest", OCI_MANIFEST, manifest.as_bytes());
        let resolved = resolve_for(store, "linux/amd64").await;
        assert_eq!(resolved.map(|_| ()).map_err(|error| error.code()), expected, "{name}");
    }
}

/// An index of indexes with so many entries each, every entry for a platform of its own.
fn many_platforms(indexes: usize, entries: usize) -> Store {
    let mut store = Store::default();
    let entry = |number: usize| descriptor(OCI_MANIFEST, b"", &platform_field(&format!("os{number}/amd64")));
    let inner: Vec<String> = (0..indexes)
        .map(|index| {
            let inner = store.index(&(0..entries).map(|at| entry(index * entries + at)).collect::<Vec<_>>());
            descriptor(OCI_INDEX, &inner, "")
        })
        .collect();
    let outer = store.index(&inner);
    store.tag("latest", OCI_INDEX, &outer);
    store
}

#[tokio::test]
async fn an_index_of_very_many_platforms_is_read_in_linear_time_and_told_in_one_line() {
    let (indexes, entries) = (8, 20_000);
    let store = many_platforms(indexes, entries);
    let began = Instant::now();
    let error = resolve_for(store, "linux/amd64").await.err().unwrap();
    // Comparing each with each took minutes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(error.code(), "ERR_PLATFORM_NOT_FOUND");
    let text = error.to_string();
    assert!(text.len() < 1000 && text.ends_with("os9/amd64 and 159,990 more"), "{text}");
}

#[tokio::test]
async fn the_search_among_very_many_platforms_can_be_stopped() {
    let store = many_platforms(8, 20_000);
    let server = Server::start(move |request| store.reply(request));
    let client = client(options());
    let mut clock = tokio::time::interval(Duration::from_millis(5));
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let search = resolve(&client, &server.host);
    tokio::pin!(search);
    // Whoever stops it is asked between any two steps of it: as often as this clock is.
    let error = loop {
        tokio::select! {
            biased;
            _ = clock.tick() => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            resolved = &mut search => break resolved.err().unwrap(),
        }
    };
    assert_eq!(error.code(), "ERR_PLATFORM_NOT_FOUND");
    assert!(longest < Duration::from_secs(1), "it could not be stopped for {longest:?}");
}
