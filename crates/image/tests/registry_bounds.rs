//! Registries that trickle, repeat themselves and never end: each answer has a bound in time as well as in bytes.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use microsandbox_image_core::{
    ImageError, Result,
    registry::{ClientOptions, ResolvedImage},
};
use support::{End, Server, Store, client, describe, options, read_blob, resolve};

/// A server that writes bytes as it likes. Dropping it stops it.
struct Wire {
    host: String,
    stopped: Arc<AtomicBool>,
}

impl Wire {
    /// `answer` gets the path that was asked for, and may write until it fails or `stopped`.
    fn start(
        answer: impl Fn(&str, &mut TcpStream, &AtomicBool) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self { host: listener.local_addr().unwrap().to_string(), stopped: Arc::default() };
        let (answer, stopped) = (Arc::new(answer), Arc::clone(&wire.stopped));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(std::io::Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (answer, stopped) = (Arc::clone(&answer), Arc::clone(&stopped));
                thread::spawn(move || serve(stream, &*answer, &stopped));
            }
        });
        wire
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.host);
    }
}

type Answer = dyn Fn(&str, &mut TcpStream, &AtomicBool) -> std::io::Result<()>;

fn serve(mut stream: TcpStream, answer: &Answer, stopped: &AtomicBool) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::io::Result::ok);
    while let Some(first) = lines.next() {
        lines.by_ref().find(String::is_empty);
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let answered = match path.as_str() {
            "/v2/" => stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n"),
            path => answer(path, &mut stream, stopped),
        };
        if answered.is_err() {
            return;
        }
    }
}

/// A head, and then a byte every 20 ms, which no pause is too long for.
fn trickle(head: &str, length: usize, to: &mut TcpStream, stopped: &AtomicBool) -> std::io::Result<()> {
    write!(to, "HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n")?;
    for _ in 0..length {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
        to.write_all(b" ")?;
    }
    Ok(())
}

async fn within(wire: &Wire, stall: Duration, most: Duration) -> Result<ResolvedImage> {
    let began = Instant::now();
    let options = ClientOptions { retries: 0, stall_timeout: stall, ..options() };
    let resolved = tokio::time::timeout(most, resolve(&client(options), &wire.host)).await;
    resolved.unwrap_or_else(|_| panic!("no end after {:?}", began.elapsed()))
}

fn code(resolved: Result<ResolvedImage>) -> &'static str {
    resolved.err().as_ref().map_or("it resolved", ImageError::code)
}

#[tokio::test]
async fn a_redirect_whose_body_trickles_is_followed_at_once() {
    let wire = Wire::start(|path, to, stopped| match path {
        "/there" => write!(to, "HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n"),
        _ => trickle("307 X\r\nlocation: /there", 60_000, to, stopped),
    });
    assert_eq!(code(within(&wire, Duration::from_secs(30), Duration::from_secs(10)).await), "ERR_NOT_FOUND");
}

#[tokio::test]
async fn the_words_of_an_error_that_trickle_are_not_waited_for() {
    let wire = Wire::start(|_, to, stopped| trickle("404 X", 60_000, to, stopped));
    assert_eq!(code(within(&wire, Duration::from_secs(1), Duration::from_secs(10)).await), "ERR_NOT_FOUND");
}

#[tokio::test]
async fn a_manifest_that_trickles_is_a_time_out() {
    let wire = Wire::start(|_, to, stopped| trickle("200 X", 60_000, to, stopped));
    assert_eq!(code(within(&wire, Duration::from_millis(200), Duration::from_secs(10)).await), "ERR_TIMEOUT");
}

#[tokio::test]
async fn a_head_without_an_end_is_an_error() {
    type Head = fn(&mut TcpStream, usize) -> std::io::Result<()>;
    let heads: [(&str, Head); 4] = [
        ("headers", |to, at| write!(to, "x-{at}: y\r\n")),
        ("one header", |to, _| to.write_all(&[b'y'; 4096])),
        ("interim answers", |to, _| to.write_all(b"HTTP/1.1 103 X\r\nlink: y\r\n\r\n")),
        ("interim answers, slowly", |to, _| {
            thread::sleep(Duration::from_millis(20));
            to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        }),
    ];
    for (name, head) in heads {
        let wire = Wire::start(move |_, to, stopped| {
            if !name.starts_with("interim") {
                write!(to, "HTTP/1.1 200 X\r\nx: ")?;
            }
            for at in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                head(to, at)?;
            }
            Ok(())
        });
        let stall = Duration::from_millis(300);
        let options = ClientOptions { retries: 0, stall_timeout: stall, connect_timeout: stall, ..options() };
        let resolved = tokio::time::timeout(Duration::from_secs(10), resolve(&client(options), &wire.host)).await;
        let code = resolved.unwrap_or_else(|_| panic!("{name}: no end")).err().map(|error| error.code());
        assert!(matches!(code, Some("ERR_NETWORK" | "ERR_TIMEOUT")), "{name}: {code:?}");
    }
}

#[tokio::test]
async fn a_blob_that_trickles_is_a_time_out_after_the_usual_tries() {
    let wire = Wire::start(|_, to, stopped| trickle("200 X", 60_000, to, stopped));
    let options = ClientOptions { retries: 1, stall_timeout: Duration::from_millis(200), ..options() };
    let (client, blob) = (client(options), describe(&[b' '; 60_000]));
    let read = tokio::time::timeout(Duration::from_secs(10), read_blob(&client, &wire.host, &blob, 0)).await;
    assert_eq!(read.expect("no end").unwrap_err().code(), "ERR_TIMEOUT");
}

#[tokio::test]
async fn a_blob_of_which_each_connection_brings_a_few_bytes_is_given_up() {
    let blob = vec![b' '; 60_000];
    let store = Store::with_image(&[&blob]);
    let server = Server::start(move |request| store.reply(request).ending(End::Cut(20)));
    let (client, blob) = (client(options()), describe(&blob));
    let read = tokio::time::timeout(Duration::from_secs(20), read_blob(&client, &server.host, &blob, 0)).await;
    assert_eq!(read.expect("no end").unwrap_err().code(), "ERR_NETWORK");
}
