//! Blobs over connections that are slower than their link: several fetch parts, and only where that is faster.

mod support;

use std::time::{Duration, Instant};

use microsandbox_image_core::budget::FurtherConnections;
use support::{End, Reply, Request, Server, Store, client, describe, noise, options, read_blob_over};

/// Long enough to be worth it, after a second over one connection.
const LENGTH: usize = 40 << 20;
const RATE: usize = 12 << 20;
/// More than parts take.
const MEMORY: u64 = 64 << 20;

/// What was asked of a server that a blob was read from over up to `permits` connections more, and how long it took.
async fn read(
    permits: usize,
    answer: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> (Vec<(usize, Option<usize>)>, Duration, usize) {
    read_long(LENGTH, permits, MEMORY, answer).await
}

async fn read_long(
    length: usize,
    permits: usize,
    memory: u64,
    answer: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> (Vec<(usize, Option<usize>)>, Duration, usize) {
    let blob = noise(length);
    let store = Store::with_image(&[&blob]);
    let server = Server::start(move |request| answer(request, store.reply(request)));
    let (further, began) = (FurtherConnections::new(permits as u64, memory), Instant::now());
    let bytes = read_blob_over(&client(options()), &server.host, &describe(&blob), &further).await.unwrap();
    let took = began.elapsed();
    assert!(bytes == blob, "other bytes came");
    assert!(further.are_free(permits as u64, memory), "permits are given back");
    let asked = server.asked("/blobs/").iter().map(|request| request.range().unwrap_or((0, None))).collect();
    (asked, took, server.connections())
}

/// Requests for parts, all but those to the end.
fn parts(asked: &[(usize, Option<usize>)]) -> usize {
    asked.iter().filter(|(_, last)| last.is_some()).count()
}

#[tokio::test]
async fn several_connections_fetch_what_one_is_slow_at() {
    let alone = Duration::from_secs_f64(LENGTH as f64 / RATE as f64);
    let (asked, took, connections) = read(2, |_, reply| reply.ending(End::Slow(RATE))).await;
    assert!(took < alone.mul_f64(0.8), "{took:?}, over one connection {alone:?}; {asked:?}");
    assert!(parts(&asked) >= 2, "{asked:?}");
    // The first one has to be closed where the others go on, and is opened again.
    assert!(connections <= 4, "{connections}");
}

#[tokio::test]
async fn one_connection_is_all_where_no_more_may_be_opened() {
    let (asked, _, connections) = read(0, |_, reply| reply.ending(End::Slow(RATE))).await;
    assert_eq!((asked, connections), (vec![(0, None)], 1));
}

#[tokio::test]
async fn one_connection_is_all_where_no_memory_for_parts_is_left() {
    let (asked, _, connections) = read_long(LENGTH, 2, 4 << 20, |_, reply| reply.ending(End::Slow(RATE))).await;
    assert_eq!((asked, connections), (vec![(0, None)], 1));
}

#[tokio::test]
async fn where_the_link_is_the_limit_one_connection_goes_on() {
    // Long enough for parts to be still left when several connections have been watched.
    let length = 64 << 20;
    let over = |permits| read_long(length, permits, MEMORY, move |_, reply| reply.ending(End::Shared(length / 8)));
    // At the same time: what else the machine does slows both.
    let ((asked, took, _), (_, alone, _)) = tokio::join!(over(2), over(0));
    assert!(took < alone.mul_f64(1.25), "{took:?}, over one connection {alone:?}");
    // The two that were tried, and then the rest in one go.
    let rest = asked.last().copied();
    assert!((1..=3).contains(&parts(&asked)), "{asked:?}");
    assert!(rest.is_some_and(|(from, last)| last.is_none() && from < length - (16 << 20)), "{asked:?}");
}

#[tokio::test]
async fn servers_that_send_no_parts_send_the_rest_over_one_connection() {
    type Odd = fn(Reply) -> Reply;
    let odd: [(&str, Odd); 4] = [
        ("a fault", |_| Reply::new(416, "")),
        ("a refusal", |_| Reply::new(400, "no ranges here")),
        ("another part", |reply| {
            let body = reply.body.clone();
            Reply::new(206, body).with("content-range", "bytes 1-2/3")
        }),
        ("a part that never comes", |reply| reply.ending(End::Cut(0))),
    ];
    let reads = odd.map(|(name, odd)| async move {
        let answer = move |request: &Request, reply: Reply| match request.range() {
            Some((_, Some(_))) => odd(reply),
            _ => reply.ending(End::Slow(RATE)),
        };
        let (asked, ..) = read(2, answer).await;
        assert!(parts(&asked) > 0, "{name}: {asked:?}");
        assert!(
            asked.len() - parts(&asked) <= 2,
            "{name}: the first goes on, or the rest is asked for once: {asked:?}"
        );
    });
    futures_util::future::join_all(reads).await;
}

#[tokio::test]
async fn a_server_that_sends_the_whole_for_a_part_sends_the_rest_over_one_connection() {
    let whole = noise(LENGTH);
    let (asked, ..) = read(2, move |request, reply| match request.range() {
        Some((_, Some(_))) => Reply::new(200, whole.clone()).ending(End::Slow(RATE)),
        _ => reply.ending(End::Slow(RATE)),
    })
    .await;
    assert!(parts(&asked) > 0 && asked.len() - parts(&asked) <= 2, "{asked:?}");
}

#[tokio::test]
async fn parts_that_are_refused_delayed_or_stall_cost_no_more_than_one_connection() {
    type Odd = fn(Reply) -> Reply;
    let odd: [(&str, Odd); 4] = [
        ("too many connections", |_| Reply::new(429, "").with("retry-after", "20")),
        ("forbidden", |_| Reply::new(403, "")),
        ("a stall before the first byte", |reply| reply.ending(End::Stall(0))),
        ("a stall later", |reply| reply.ending(End::Stall(1 << 20))),
    ];
    let alone = Duration::from_secs_f64(LENGTH as f64 / RATE as f64);
    let reads = odd.map(|(name, odd)| async move {
        let blob = noise(LENGTH);
        let store = Store::with_image(&[&blob]);
        let server = Server::start(move |request| match request.range() {
            Some((_, Some(_))) => odd(store.reply(request)),
            _ => store.reply(request).ending(End::Slow(RATE)),
        });
        let patient =
            microsandbox_image_core::registry::ClientOptions { stall_timeout: Duration::from_secs(30), ..options() };
        let (further, began) = (FurtherConnections::new(2, 64 << 20), Instant::now());
        let bytes = read_blob_over(&client(patient), &server.host, &describe(&blob), &further).await.unwrap();
        let took = began.elapsed();
        assert!(bytes == blob, "{name}");
        assert!(took < alone + Duration::from_secs(6), "{name}: {took:?}, over one connection {alone:?}");
        let asked: Vec<_> = server.asked("/blobs/").iter().map(|request| request.range()).collect();
        assert!(asked.iter().flatten().any(|(_, last)| last.is_some()), "{name}: {asked:?}");
        if !name.starts_with("a stall") {
            // The first connection goes on: who allows one would refuse it if it was asked for again.
            assert!(asked.iter().skip(1).flatten().all(|(_, last)| last.is_some()), "{name}: {asked:?}");
        }
    });
    futures_util::future::join_all(reads).await;
}
