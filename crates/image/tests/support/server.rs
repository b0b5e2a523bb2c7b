//! A small HTTP server that answers as a test says, breaks off where a test says, and remembers what it was asked.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// First byte of a `Range`.
    pub fn from(&self) -> Option<usize> {
        Some(self.range()?.0)
    }

    /// First and, where it is said, last byte of a `Range`.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }
}

/// How an answer's body ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// As it should.
    Whole,
    /// The connection is closed after so many bytes of it.
    Cut(usize),
    /// Nothing more comes after so many bytes of it.
    Stall(usize),
    /// Without a length, in chunks.
    Chunked,
    /// All of it in chunks, but the last chunk never comes.
    Unended,
    /// Without a length and without an end.
    Endless,
    /// So many bytes a second over this connection.
    Slow(usize),
    /// So many bytes a second over all connections together.
    Shared(usize),
}

/// What all connections of a server have in common.
#[derive(Default)]
pub struct Line {
    stopped: AtomicBool,
    /// When the bytes of all who send [`End::Shared`] are through.
    busy_until: Mutex<Option<Instant>>,
}

impl Line {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn wait_for_stop(&self) {
        while !self.is_stopped() {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until so many bytes are through.
    fn pass(&self, took: Duration) {
        let until = {
            let mut busy = self.busy_until.lock().unwrap();
            let until = busy.map_or_else(Instant::now, |until| until.max(Instant::now())) + took;
            *busy = Some(until);
            until
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), end: End::Whole }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} X\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.end {
            End::Chunked | End::Unended | End::Endless => head.push_str("transfer-encoding: chunked\r\n\r\n"),
            _ => head.push_str(&format!("content-length: {}\r\n\r\n", self.body.len())),
        }
        head
    }

    /// Says whether the connection can be used on.
    fn write(&self, to: &mut impl Write, line: &Line) -> std::io::Result<bool> {
        to.write_all(self.head().as_bytes())?;
        match self.end {
            End::Whole => to.write_all(&self.body)?,
            End::Cut(after) => {
                to.write_all(&self.body[..after.min(self.body.len())])?;
                to.flush()?;
                return Ok(false);
            }
            End::Stall(after) => {
                to.write_all(&self.body[..after.min(self.body.len())])?;
                to.flush()?;
                line.wait_for_stop();
                return Ok(false);
            }
            End::Slow(rate) => {
                let began = Instant::now();
                for (at, part) in self.body.chunks(PIECE).enumerate() {
                    let due = began + took(at * PIECE + part.len(), rate);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    to.write_all(part)?;
                }
            }
            End::Shared(rate) => {
                for part in self.body.chunks(PIECE) {
                    line.pass(took(part.len(), rate));
                    to.write_all(part)?;
                }
            }
            End::Chunked | End::Unended => {
                for part in self.body.chunks(1000) {
                    write!(to, "{:x}\r\n", part.len())?;
                    to.write_all(part)?;
                    to.write_all(b"\r\n")?;
                }
                if matches!(self.end, End::Unended) {
                    to.flush()?;
                    line.wait_for_stop();
                    return Ok(false);
                }
                to.write_all(b"0\r\n\r\n")?;
            }
            End::Endless => loop {
                to.write_all(b"400\r\n")?;
                to.write_all(&[b' '; 0x400])?;
                to.write_all(b"\r\n")?;
            },
        }
        to.flush()?;
        Ok(true)
    }
}

const PIECE: usize = 64 << 10;

fn took(bytes: usize, rate: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; dropping it stops it.
pub struct Server {
    /// `127.0.0.1:port`.
    pub host: String,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    line: Arc<Line>,
}

impl Server {
    /// Speaks plain HTTP.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(handler, |stream, serve| serve(&mut BufReader::new(stream)))
    }

    /// Speaks TLS with a certificate.
    pub fn start_tls(
        config: Arc<rustls::ServerConfig>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::run(handler, move |stream, serve| {
            let Ok(connection) = rustls::ServerConnection::new(Arc::clone(&config)) else { return };
            serve(&mut BufReader::new(rustls::StreamOwned::new(connection, stream)));
        })
    }

    fn run(
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        connect: impl Fn(TcpStream, &dyn Fn(&mut dyn Duplex)) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            host: listener.local_addr().unwrap().to_string(),
            requests: Arc::default(),
            connections: Arc::default(),
            line: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let connect = Arc::new(connect);
        let (requests, connections, line) =
            (Arc::clone(&server.requests), Arc::clone(&server.connections), Arc::clone(&server.line));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if line.is_stopped() {
                    break;
                }
                connections.fetch_add(1, Ordering::Relaxed);
                let (handler, connect, requests, line) =
                    (Arc::clone(&handler), Arc::clone(&connect), Arc::clone(&requests), Arc::clone(&line));
                thread::spawn(move || {
                    let closer = stream.try_clone().unwrap();
                    connect(stream, &|duplex| serve(duplex, &*handler, &requests, &line));
                    let _ = closer.shutdown(Shutdown::Both);
                });
            }
        });
        server
    }

    /// All that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Requests whose path holds a text.
    pub fn asked(&self, text: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path.contains(text)).collect()
    }

    /// Connections that were opened so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.line.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.host);
    }
}

/// A stream that is read by lines and written.
pub trait Duplex {
    fn reader(&mut self) -> &mut dyn BufRead;
    fn write_reply(&mut self, reply: &Reply, line: &Line) -> std::io::Result<bool>;
}

impl<S: Read + Write> Duplex for BufReader<S> {
    fn reader(&mut self) -> &mut dyn BufRead {
        self
    }

    fn write_reply(&mut self, reply: &Reply, line: &Line) -> std::io::Result<bool> {
        reply.write(self.get_mut(), line)
    }
}

fn serve(duplex: &mut dyn Duplex, handler: &Handler, requests: &Mutex<Vec<Request>>, line: &Line) {
    while let Some(request) = read_request(duplex.reader()) {
        requests.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        if !duplex.write_reply(&reply, line).unwrap_or(false) {
            return;
        }
    }
}

fn read_request(from: &mut dyn BufRead) -> Option<Request> {
    let mut line = String::new();
    from.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: String::new() };
    if let Some(length) = request.header("content-length").and_then(|text| text.parse().ok()) {
        let mut body = vec![0; length];
        from.read_exact(&mut body).ok()?;
        request.body = String::from_utf8(body).ok()?;
    }
    Some(request)
}
