//! Blobs over networks that break: what arrives is right, or there is a typed error, soon.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use microsandbox_image_core::progress::Event;
use support::{End, Reply, Server, Store, Watch, client, describe, noise, options, read_blob, read_blob_watched};

const LENGTH: usize = 100_000;

#[tokio::test]
async fn a_link_cut_every_few_bytes_is_resumed_where_it_stopped() {
    let blob = noise(LENGTH);
    let store = Store::with_image(&[&blob]);
    let server = Server::start(move |request| match request.path.contains("/blobs/") {
        true => store.reply(request).ending(End::Cut(LENGTH / 20)),
        false => store.reply(request),
    });
    let watch = Arc::new(Watch::default());
    let client = client(options());
    let bytes = read_blob_watched(&client, &server.host, &describe(&blob), 0, watch.clone()).await.unwrap();
    assert!(bytes == blob);
    let starts: Vec<_> = server.asked("/blobs/").iter().map(|request| request.from().unwrap_or(0)).collect();
    assert_eq!(starts.len(), 20, "{starts:?}");
    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{starts:?}");
    let events = watch.0.lock().unwrap();
    assert!(events.iter().all(|event| matches!(event, Event::Retrying { attempt: 1, .. })), "{events:?}");
}

#[tokio::test]
async fn answers_to_a_range_lead_to_the_right_bytes_whatever_they_are() {
    let blob = noise(LENGTH);
    let half = LENGTH / 2;
    let wrong_start = move |blob: &[u8]| {
        Reply::new(206, &blob[half - 1..]).with("content-range", format!("bytes {}-{}/{LENGTH}", half - 1, LENGTH - 1))
    };
    type Odd = Box<dyn Fn(&[u8]) -> Reply + Send + Sync>;
    let table: Vec<(&str, Odd)> = vec![
        ("the whole with 200", Box::new(|blob| Reply::new(200, blob))),
        ("the whole in chunks", Box::new(|blob| Reply::new(200, blob).ending(End::Chunked))),
        ("another part", Box::new(wrong_start)),
        ("a part that does not say which", Box::new(move |blob| Reply::new(206, &blob[half..]))),
        (
            "a part of something else",
            Box::new(move |blob| {
                Reply::new(206, &blob[half..]).with("content-range", format!("bytes {half}-{}/{}", LENGTH, LENGTH + 1))
            }),
        ),
        ("416", Box::new(|_| Reply::new(416, ""))),
        ("400", Box::new(|_| Reply::new(400, "no ranges here"))),
        ("501", Box::new(|_| Reply::new(501, ""))),
        ("401", Box::new(|_| Reply::new(401, ""))),
        ("403", Box::new(|_| Reply::new(403, ""))),
        ("405", Box::new(|_| Reply::new(405, ""))),
    ];
    for (name, odd) in table {
        let content = blob.clone();
        let server = Server::start(move |request| match (request.path.contains("/blobs/"), request.from()) {
            (true, Some(_)) => odd(&content),
            (true, None) => Reply::new(200, content.clone()),
            _ => Reply::new(200, "{}"),
        });
        let rest = read_blob(&client(options()), &server.host, &describe(&blob), half as u64).await;
        assert!(rest.unwrap_or_else(|error| panic!("{name}: {error}")) == blob[half..], "{name}");
    }
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_and_breaks_off_ends_in_an_error_not_in_a_loop() {
    let blob = noise(LENGTH);
    let content = blob.clone();
    let server = Server::start(move |_| Reply::new(200, content.clone()).ending(End::Cut(1000)));
    let error = read_blob(&client(options()), &server.host, &describe(&blob), 0).await.unwrap_err();
    assert_eq!(error.code(), "ERR_NETWORK");
    assert!(error.to_string().contains("tried 4 times"), "{error}");
    assert_eq!(server.asked("/blobs/").len(), 4);
}

#[tokio::test]
async fn no_range_is_asked_for_at_the_start() {
    let blob = noise(10);
    let store = Store::with_image(&[&blob]);
    let server = Server::start(move |request| store.reply(request));
    assert!(read_blob(&client(options()), &server.host, &describe(&blob), 0).await.unwrap() == blob);
    assert_eq!(server.asked("/blobs/")[0].header("range"), None);
}

#[tokio::test]
async fn bodies_longer_or_shorter_than_promised_are_refused() {
    let blob = noise(LENGTH);
    let mut longer = blob.clone();
    longer.extend_from_slice(b"more");
    for (name, reply, code) in [
        ("a longer body", Reply::new(200, longer.clone()), "ERR_DIGEST_MISMATCH"),
        ("a longer body in chunks", Reply::new(200, longer).ending(End::Chunked), "ERR_DIGEST_MISMATCH"),
        ("an endless body", Reply::new(200, "").ending(End::Endless), "ERR_DIGEST_MISMATCH"),
        ("a shorter body", Reply::new(200, &blob[1..]), "ERR_DIGEST_MISMATCH"),
        ("a shorter body in chunks", Reply::new(200, &blob[..9]).ending(End::Chunked), "ERR_NETWORK"),
        ("no content", Reply::new(204, ""), "ERR_REGISTRY"),
    ] {
        let server = Server::start(move |_| reply.clone());
        let error = read_blob(&client(options()), &server.host, &describe(&blob), 0).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}: {error}");
    }
}

#[tokio::test]
async fn passing_statuses_are_tried_again_and_lasting_ones_are_not() {
    let blob = noise(10);
    for (status, tries, code) in [
        (408, 4, "ERR_REGISTRY"),
        (429, 4, "ERR_REGISTRY"),
        (500, 4, "ERR_REGISTRY"),
        (503, 4, "ERR_REGISTRY"),
        (400, 1, "ERR_REGISTRY"),
        (404, 1, "ERR_NOT_FOUND"),
        (403, 1, "ERR_UNAUTHORIZED"),
        (401, 1, "ERR_UNAUTHORIZED"),
    ] {
        let server = Server::start(move |request| match request.path.as_str() {
            "/v2/" => Reply::new(200, ""),
            _ => {
                Reply::new(status, r#"{"errors":[{"code":"X","message":"in our own words"}]}"#).with("retry-after", "0")
            }
        });
        let error = read_blob(&client(options()), &server.host, &describe(&blob), 0).await.unwrap_err();
        assert_eq!((error.code(), server.asked("/blobs/").len()), (code, tries), "{status}: {error}");
        assert!(error.to_string().contains("in our own words"), "{error}");
        assert!(error.to_string().contains(&server.host), "{error}");
    }
}

#[tokio::test]
async fn the_servers_own_pause_is_kept_and_one_without_end_is_not_waited_for() {
    let blob = noise(10);
    let store = Store::with_image(&[&blob]);
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path.contains("/blobs/") {
        true if calls.fetch_add(1, Ordering::Relaxed) == 0 => Reply::new(429, "").with("retry-after", "1"),
        _ => store.reply(request),
    });
    let started = Instant::now();
    assert!(read_blob(&client(options()), &server.host, &describe(&blob), 0).await.unwrap() == blob);
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());

    let server = Server::start(|request| match request.path.as_str() {
        "/v2/" => Reply::new(200, ""),
        _ => Reply::new(503, "").with("retry-after", "86400"),
    });
    let started = Instant::now();
    let error = read_blob(&client(options()), &server.host, &describe(&blob), 0).await.unwrap_err();
    assert_eq!(error.code(), "ERR_REGISTRY");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_stall_is_noticed_and_what_came_before_it_is_kept() {
    let blob = noise(LENGTH);
    let store = Store::with_image(&[&blob]);
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path.contains("/blobs/") {
        true if calls.fetch_add(1, Ordering::Relaxed) == 0 => store.reply(request).ending(End::Stall(LENGTH / 2)),
        _ => store.reply(request),
    });
    assert!(read_blob(&client(options()), &server.host, &describe(&blob), 0).await.unwrap() == blob);
    assert_eq!(server.asked("/blobs/")[1].from(), Some(LENGTH / 2));

    let server = Server::start(|_| Reply::new(200, noise(LENGTH)).ending(End::Stall(0)));
    let options = microsandbox_image_core::registry::ClientOptions { retries: 0, ..options() };
    let error = read_blob(&client(options), &server.host, &describe(&blob), 0).await.unwrap_err();
    assert_eq!(error.code(), "ERR_TIMEOUT", "{error}");
    assert!(error.to_string().contains("stallTimeout"), "{error}");
}

#[tokio::test]
async fn dropping_a_stream_in_a_pause_or_a_stall_ends_it_at_once() {
    let blob = noise(LENGTH);
    for reply in [Reply::new(503, "").with("retry-after", "30"), Reply::new(200, blob.clone()).ending(End::Stall(10))] {
        let server = Server::start(move |request| match request.path.as_str() {
            "/v2/" => Reply::new(200, ""),
            _ => reply.clone(),
        });
        let patient =
            microsandbox_image_core::registry::ClientOptions { stall_timeout: Duration::from_secs(30), ..options() };
        let started = Instant::now();
        let client = client(patient);
        let descriptor = describe(&blob);
        let reading = read_blob(&client, &server.host, &descriptor, 0);
        assert!(tokio::time::timeout(Duration::from_millis(200), Box::pin(reading)).await.is_err());
        assert!(started.elapsed() < Duration::from_millis(450), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn carried_data_needs_no_request() {
    let blob = noise(10);
    let server = Server::start(|_| Reply::new(500, ""));
    let carried = microsandbox_image_core::model::Descriptor { data: Some(blob.clone()), ..describe(&blob) };
    assert_eq!(read_blob(&client(options()), &server.host, &carried, 4).await.unwrap(), blob[4..]);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn one_connection_serves_many_blobs() {
    let blobs: Vec<_> = (0..100_u8).map(|n| vec![n; 5000]).collect();
    let store = Store::with_image(&blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let server = Server::start(move |request| store.reply(request));
    let client = client(options());
    for blob in &blobs {
        assert!(read_blob(&client, &server.host, &describe(blob), 0).await.unwrap() == *blob);
    }
    assert!(server.connections() <= 2, "{}", server.connections());
}

#[tokio::test]
async fn a_storage_server_that_refuses_ranges_is_asked_for_the_whole() {
    let blob = noise(LENGTH);
    let content = blob.clone();
    let storage = Server::start(move |request| match request.from() {
        Some(_) => Reply::new(403, ""),
        None => Reply::new(200, content.clone()),
    });
    let target = storage.host.clone();
    let server = Server::start(move |request| match request.path.contains("/blobs/") {
        true => Reply::new(307, "").with("location", format!("http://{target}{}", request.path)),
        false => Reply::new(200, "{}"),
    });
    let rest = read_blob(&client(options()), &server.host, &describe(&blob), 1000).await.unwrap();
    assert!(rest == blob[1000..]);
    let asked: Vec<_> = storage.requests().iter().map(support::Request::from).collect();
    assert_eq!(asked, [Some(1000), Some(1000), None], "a new address first, then the whole");
}

#[tokio::test]
async fn a_body_whose_bytes_are_all_there_is_taken_though_its_connection_does_not_end() {
    let blob = noise(LENGTH);
    let store = Store::with_image(&[&blob]);
    let server = Server::start(move |request| match request.path.contains("/blobs/") {
        true => store.reply(request).ending(End::Unended),
        false => store.reply(request),
    });
    let patient =
        microsandbox_image_core::registry::ClientOptions { stall_timeout: Duration::from_secs(30), ..options() };
    let (client, began) = (client(patient), Instant::now());
    support::resolve(&client, &server.host).await.unwrap();
    assert!(read_blob(&client, &server.host, &describe(&blob), 0).await.unwrap() == blob);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
