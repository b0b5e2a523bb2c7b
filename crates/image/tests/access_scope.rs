//! Tenants with logins of their own who share a cache: what it holds counts only where a tenant's login was shown to have
//! access to it.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

#[path = "support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use microsandbox_image_core::{
    Digest, ErrorKind, GlobalCache, ImageError, PullOptions, PullPolicy, PullResult, Reference, Registry, Settings,
    progress::{Event, Unobserved},
    pull::LayerState,
    registry::{ClientOptions, RegistryAuth, Secret},
    store::{LayerFile, PruneOptions},
};
use support::{Reply, Request, Server, Store, Watch, images};
use tokio_util::sync::CancellationToken;

/// A repository, and who may read it (everybody, if nobody is named).
#[derive(Default, Clone)]
struct Repository {
    store: Store,
    readers: Vec<&'static str>,
    /// Its blobs are refused with this status, whoever asks.
    refuses_blobs: Option<u16>,
    /// `HEAD` for a blob is answered with this status.
    head: Option<u16>,
    /// Ranges are refused with this status.
    range: Option<u16>,
}

impl Repository {
    fn reply(&self, request: &Request) -> Reply {
        use base64::Engine;
        let is_reader = |name: &&str| {
            let login = base64::engine::general_purpose::STANDARD.encode(format!("{name}:secret"));
            request.header("authorization") == Some(&format!("Basic {login}"))
        };
        if !self.readers.is_empty() && !self.readers.iter().any(is_reader) {
            return Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\"");
        }
        let is_blob = request.path.contains("/blobs/");
        let is_head = request.method == "HEAD";
        let refused = if !is_blob {
            None
        } else {
            let way = if is_head { self.head } else { self.range.filter(|_| request.range().is_some()) };
            self.refuses_blobs.or(way)
        };
        let reply = refused.map_or_else(|| self.store.reply(request), |status| Reply::new(status, ""));
        if is_head { Reply { body: Vec::new(), ..reply } } else { reply }
    }
}

type Repositories = Arc<Mutex<BTreeMap<String, Repository>>>;

/// A registry of several repositories, and a cache that tenants share.
struct World {
    _temp: tempfile::TempDir,
    repositories: Repositories,
    server: Server,
    cache: GlobalCache,
    runtime: tokio::runtime::Runtime,
}

/// One tenant's client; without a name, one that names no scope and has no login.
struct Tenant<'a> {
    world: &'a World,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let repositories = Repositories::default();
        let served = Arc::clone(&repositories);
        let server = Server::start(move |request| {
            let served = served.lock().unwrap();
            let found = served.iter().find(|(name, _)| request.path.starts_with(&format!("/v2/{name}/")));
            found.map_or_else(|| Reply::new(404, ""), |(_, repository)| repository.reply(request))
        });
        let cache = GlobalCache::new(&temp.path().join("cache"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { _temp: temp, repositories, server, cache, runtime }
    }

    /// Serves `latest` of a repository with these layers.
    fn serve(&self, name: &str, layers: &[&[u8]], readers: &[&'static str]) {
        let repository =
            Repository { store: Store::with_image(layers), readers: readers.to_vec(), ..Repository::default() };
        self.repositories.lock().unwrap().insert(name.to_owned(), repository);
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Repository)) {
        change(self.repositories.lock().unwrap().get_mut(name).unwrap());
    }

    /// An image that names a layer which its repository lacks.
    fn serve_without(&self, name: &str, layers: &[&[u8]], missing: &[u8], readers: &[&'static str]) {
        self.serve(name, layers, readers);
        self.change(name, |repository| repository.store.remove(&format!("blobs/{}", images::sha256(missing))));
    }

    fn reference(&self, name: &str) -> Reference {
        Reference::parse(&format!("{}/{name}:latest", self.server.host)).unwrap()
    }

    fn tenant_in(&self, cache: &GlobalCache, name: Option<&str>) -> Tenant<'_> {
        let auth = name.map(|name| RegistryAuth::Basic { username: name.into(), password: Secret::new("secret") });
        let settings = Settings {
            lock_timeout: Some(Duration::from_secs(60)),
            access_scope: name.map(str::to_owned),
            ..Settings::default()
        };
        let client = ClientOptions { auth, ..support::options() };
        let registry = Registry::new(cache.clone(), support::amd64(), client, settings).unwrap();
        Tenant { world: self, registry }
    }

    fn tenant(&self, name: &str) -> Tenant<'_> {
        self.tenant_in(&self.cache, Some(name))
    }

    /// Requests for blobs so far: method and `Range`.
    fn asked_for(&self, layer: &[u8]) -> Vec<(String, Option<String>)> {
        let asked = self.server.asked(&format!("blobs/{}", images::sha256(layer)));
        let authorized = asked.iter().filter(|request| request.header("authorization").is_some());
        authorized.map(|request| (request.method.clone(), request.header("range").map(str::to_owned))).collect()
    }

    fn proofs(&self) -> Vec<PathBuf> {
        let list = fs::read_dir(self.cache.directory().join("access"));
        list.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Tenant<'_> {
    fn pull_with(&self, name: &str, options: &PullOptions) -> Result<PullResult, ImageError> {
        let reference = self.world.reference(name);
        let pull = self.registry.pull(&reference, options, Arc::new(Unobserved), CancellationToken::new());
        let limited = async { tokio::time::timeout(Duration::from_secs(60), pull).await };
        self.world.runtime.block_on(limited).expect("it hangs")
    }

    fn try_pull(&self, name: &str) -> Result<PullResult, ImageError> {
        self.pull_with(name, &PullOptions::default())
    }

    fn pull(&self, name: &str) -> PullResult {
        self.try_pull(name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn code(&self, name: &str) -> &'static str {
        self.try_pull(name).expect_err("it was pulled").code()
    }

    fn is_cached(&self, name: &str) -> bool {
        self.registry.pull_cached(&self.world.reference(name), None).unwrap().is_some()
    }
}

fn layer(path: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, &b"data"[..]).unwrap();
    archive.into_inner().unwrap()
}

fn head() -> (String, Option<String>) {
    ("HEAD".to_owned(), None)
}

fn first_byte() -> (String, Option<String>) {
    ("GET".to_owned(), Some("bytes=0-0".to_owned()))
}

fn whole() -> (String, Option<String>) {
    ("GET".to_owned(), None)
}

#[test]
fn without_a_scope_whoever_names_a_digest_gets_what_the_cache_holds() {
    let (world, secret) = (World::new(), layer("secret"));
    world.serve("team/a", &[&secret], &[]);
    world.serve_without("team/b", &[&secret], &secret, &[]);
    let all = world.tenant_in(&world.cache, None);
    let pulled = all.pull("team/a");
    assert_eq!(all.pull("team/b").layers, pulled.layers);
    assert_eq!(world.proofs(), [] as [PathBuf; 0]);
}

#[test]
fn a_tenant_who_names_anothers_private_layer_in_its_own_repository_fails_as_in_an_empty_cache() {
    let (world, secret, own) = (World::new(), layer("secret"), layer("own"));
    world.serve("team/a", &[&secret], &["a"]);
    world.serve_without("team/b", &[&own, &secret], &secret, &["b"]);
    let empty = GlobalCache::new(&world.cache.directory().with_file_name("empty"));
    let expected = world.tenant_in(&empty, Some("b")).try_pull("team/b").unwrap_err();
    assert_eq!(expected.code(), "ERR_NOT_FOUND");
    world.tenant("a").pull("team/a");
    for head in [None, Some(405), Some(404), Some(501)] {
        world.change("team/b", |repository| repository.head = head);
        let b = world.tenant("b");
        let error = b.try_pull("team/b").unwrap_err();
        assert_eq!((error.code(), error.to_string()), (expected.code(), expected.to_string()), "HEAD {head:?}");
        assert!(!b.is_cached("team/b"));
        let forced = PullOptions { force: true, ..PullOptions::default() };
        assert_eq!(b.pull_with("team/b", &forced).unwrap_err().code(), "ERR_NOT_FOUND");
    }
    assert!(world.tenant("a").is_cached("team/a"));
}

#[test]
fn a_blob_or_a_part_of_one_is_not_taken_either() {
    for file in [LayerFile::Blob, LayerFile::Part] {
        let (world, secret) = (World::new(), layer("secret"));
        world.serve_without("team/b", &[&secret], &secret, &["b"]);
        world.cache.prepare().unwrap();
        fs::write(world.cache.layer(&images::sha256(&secret), file), &secret).unwrap();
        assert_eq!(world.tenant("b").code("team/b"), "ERR_NOT_FOUND", "{file:?}");
    }
}

#[test]
fn what_a_private_layer_is_does_not_show_in_an_error() {
    let (world, secret) = (World::new(), layer("secret"));
    world.serve("team/a", &[&secret], &["a"]);
    world.tenant("a").pull("team/a");
    // The same blob, claimed to be of another diff_id: who may have it is told of a mismatch.
    world.serve_without("team/b", &[&secret], &secret, &["b"]);
    let lie = |repository: &mut Repository| {
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            images::sha256(b"another")
        );
        repository.store.blob(config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            images::OCI_MANIFEST,
            images::descriptor(images::OCI_CONFIG, config.as_bytes(), ""),
            images::descriptor(images::OCI_LAYER, &secret, ""),
        );
        repository.store.tag("latest", images::OCI_MANIFEST, manifest.as_bytes());
    };
    world.change("team/b", lie);
    let error = world.tenant("b").try_pull("team/b").unwrap_err();
    assert_eq!(error.code(), "ERR_NOT_FOUND");
    assert!(!error.to_string().contains("uncompressed"), "{error}");
}

#[test]
fn a_refusal_is_told_as_one_and_is_never_a_hit() {
    for status in [401, 403] {
        let (world, secret) = (World::new(), layer("secret"));
        world.serve("team/a", &[&secret], &["a", "b"]);
        world.tenant("a").pull("team/a");
        world.change("team/a", |repository| repository.refuses_blobs = Some(status));
        let b = world.tenant("b");
        assert!(!b.is_cached("team/a"));
        let error = b.try_pull("team/a").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unauthorized { .. }), "{status}: {error}");
        assert!(!b.is_cached("team/a"));
        // What was proven stays so.
        assert!(world.tenant("a").is_cached("team/a"));
    }
}

#[test]
fn a_reference_that_another_tenant_pulled_is_no_hit_for_who_may_not_read_it() {
    let (world, secret) = (World::new(), layer("secret"));
    world.serve("team/a", &[&secret], &["a"]);
    world.tenant("a").pull("team/a");
    let b = world.tenant("b");
    assert!(!b.is_cached("team/a"));
    assert_eq!(b.code("team/a"), "ERR_UNAUTHORIZED");
    let before = world.server.requests().len();
    let never = PullOptions { policy: PullPolicy::Never, ..PullOptions::default() };
    assert_eq!(b.pull_with("team/a", &never).unwrap_err().code(), "ERR_NOT_CACHED");
    assert_eq!(world.server.requests().len(), before, "the policy is never");
    let nobody = b.registry.pull_at_once(&world.reference("team/a"), &PullOptions::default(), &Unobserved);
    assert!(nobody.unwrap().is_none());
}

#[test]
fn a_layer_is_proven_by_one_head_request_and_never_asked_for_again() {
    let (world, shared, twice) = (World::new(), layer("shared"), layer("twice"));
    world.serve("team/app", &[&twice, &shared, &twice], &["a", "b"]);
    let pulled = world.tenant("a").pull("team/app");
    assert!(!pulled.cached);
    assert_eq!((world.asked_for(&shared), world.asked_for(&twice)), (vec![whole()], vec![whole()]), "no need of proof");
    let b = world.tenant("b");
    assert!(!b.is_cached("team/app"));
    let again = b.pull("team/app");
    assert_eq!((again.cached, &again.layers), (true, &pulled.layers));
    let expected = vec![whole(), head()];
    assert_eq!((world.asked_for(&shared), world.asked_for(&twice)), (expected.clone(), expected));
    let before = world.server.requests().len();
    for name in ["a", "b"] {
        // Another process.
        let tenant = world.tenant(name);
        assert!(tenant.is_cached("team/app"));
        assert!(tenant.pull("team/app").cached);
        let never = PullOptions { policy: PullPolicy::Never, ..PullOptions::default() };
        tenant.pull_with("team/app", &never).unwrap();
    }
    assert_eq!(world.server.requests().len(), before);
    assert!(!world.tenant("c").is_cached("team/app"));
}

#[test]
fn one_byte_is_asked_for_where_head_is_not_answered_and_all_where_ranges_are_not() {
    for head_status in [404, 405, 501] {
        for range in [None, Some(416), Some(405)] {
            let (world, shared) = (World::new(), layer("shared"));
            world.serve("team/app", &[&shared], &["a", "b"]);
            world.tenant("a").pull("team/app");
            world.change("team/app", |repository| (repository.head, repository.range) = (Some(head_status), range));
            assert!(world.tenant("b").pull("team/app").cached);
            let mut expected = vec![whole(), head(), first_byte()];
            expected.extend(range.map(|_| whole()));
            assert_eq!(world.asked_for(&shared), expected, "HEAD {head_status}, ranges {range:?}");
            assert!(world.tenant("b").is_cached("team/app"));
        }
    }
}

#[test]
fn a_proof_counts_in_its_repository_alone() {
    let (world, shared) = (World::new(), layer("shared"));
    world.serve("team/app", &[&shared], &["a"]);
    world.serve("team/copy", &[&shared], &["a"]);
    world.serve_without("team/other", &[&shared], &shared, &["a"]);
    let a = world.tenant("a");
    a.pull("team/app");
    assert_eq!(a.code("team/other"), "ERR_NOT_FOUND");
    assert!(a.pull("team/copy").cached);
    assert_eq!(world.asked_for(&shared).iter().filter(|request| **request == head()).count(), 2);
}

#[test]
fn what_was_pulled_without_a_scope_is_proven_before_it_counts() {
    let (world, shared) = (World::new(), layer("shared"));
    world.serve("team/app", &[&shared], &[]);
    world.tenant_in(&world.cache, None).pull("team/app");
    let a = world.tenant("a");
    assert!(!a.is_cached("team/app"));
    assert!(a.pull("team/app").cached);
    assert!(a.is_cached("team/app"));
    assert!(world.tenant_in(&world.cache, None).is_cached("team/app"));
}

#[test]
fn an_image_without_layers_or_of_known_ones_counts_once_its_manifest_was_resolved() {
    let (world, shared) = (World::new(), layer("shared"));
    world.serve("team/empty", &[], &["a", "b"]);
    let (a, b) = (world.tenant("a"), world.tenant("b"));
    a.pull("team/empty");
    assert!(a.is_cached("team/empty") && !b.is_cached("team/empty"));
    b.pull("team/empty");
    assert!(b.is_cached("team/empty"));
    // Another image of layers that both have been shown to have.
    world.serve("team/app", &[&shared], &["a", "b"]);
    a.pull("team/app");
    b.pull("team/app");
    world.change("team/app", |repository| {
        let manifest = repository.store.image("linux/amd64", &[&shared, &shared]);
        repository.store.tag("latest", images::OCI_MANIFEST, &manifest);
    });
    a.pull_with("team/app", &PullOptions { policy: PullPolicy::Always, ..PullOptions::default() }).unwrap();
    assert!(a.is_cached("team/app") && !b.is_cached("team/app"));
    assert!(b.pull("team/app").cached && b.is_cached("team/app"));
}

#[test]
fn a_hit_writes_nothing_and_neither_does_a_look_at_what_is_not_proven() {
    let (world, shared) = (World::new(), layer("shared"));
    world.serve("team/app", &[&shared], &["a", "b"]);
    world.tenant("a").pull("team/app");
    let names = || {
        let mut names = world.proofs();
        for folder in ["", "images", "layers"] {
            let list = fs::read_dir(world.cache.directory().join(folder)).unwrap();
            names.extend(list.map(|entry| entry.unwrap().path()));
        }
        names.sort();
        names
    };
    let before = names();
    assert!(world.tenant("a").is_cached("team/app"));
    assert!(world.tenant("a").pull("team/app").cached);
    assert!(!world.tenant("b").is_cached("team/app"));
    let plan = world.tenant("b").registry.clone();
    let (reference, options) = (world.reference("team/app"), PullOptions::default());
    let plan = world.runtime.block_on(plan.plan(&reference, &options, &Unobserved)).unwrap();
    assert_eq!((plan.cached, plan.layers[0].state), (false, LayerState::Cached));
    assert_eq!(names(), before);
}

#[test]
fn a_plan_fails_where_the_pull_would_whether_or_not_the_cache_has_the_layer() {
    let (world, secret) = (World::new(), layer("secret"));
    world.serve("team/a", &[&secret], &["a"]);
    world.serve_without("team/b", &[&secret], &secret, &["b"]);
    let reference = world.reference("team/b");
    let plan = || {
        let registry = world.tenant("b").registry;
        let planned = world.runtime.block_on(registry.plan(&reference, &PullOptions::default(), &Unobserved));
        planned.map(|plan| plan.layers[0].state).map_err(|error| error.to_string())
    };
    let before = plan();
    world.tenant("a").pull("team/a");
    assert_eq!(plan(), before);
    assert!(before.is_err_and(|error| error.contains(&images::sha256(&secret).to_string())));
}

#[test]
fn no_event_tells_what_the_cache_has_of_a_layer_that_is_not_proven() {
    let (world, secret) = (World::new(), layer("secret"));
    world.serve("team/a", &[&secret], &["a"]);
    world.serve_without("team/b", &[&secret], &secret, &["b"]);
    world.tenant("a").pull("team/a");
    let watch = Arc::new(Watch::default());
    let (registry, reference) = (world.tenant("b").registry, world.reference("team/b"));
    let (options, observer) = (PullOptions::default(), Arc::clone(&watch));
    let pull = registry.pull(&reference, &options, observer, CancellationToken::new());
    assert_eq!(world.runtime.block_on(pull).unwrap_err().code(), "ERR_NOT_FOUND");
    let events = watch.0.lock().unwrap();
    assert!(events.iter().all(|event| matches!(event, Event::Resolving { .. })), "{events:?}");
}

#[test]
fn a_layer_that_another_tenant_brings_while_its_lock_is_waited_for_is_proven_as_well() {
    use fs2::FileExt;
    let (world, secret) = (World::new(), layer("secret"));
    world.serve("team/a", &[&secret], &["a"]);
    world.serve_without("team/b", &[&secret], &secret, &["b"]);
    let elsewhere = GlobalCache::new(&world.cache.directory().with_file_name("elsewhere"));
    world.tenant_in(&elsewhere, Some("a")).pull("team/a");
    world.cache.prepare().unwrap();
    let digest = images::sha256(&secret);
    let lock = fs::File::create(world.cache.layer(&digest, LayerFile::DownloadLock)).unwrap();
    lock.lock_exclusive().unwrap();
    let (watch, reference) = (Arc::new(Watch::default()), world.reference("team/b"));
    let (registry, observer) = (world.tenant("b").registry, Arc::clone(&watch));
    let pulled = world.runtime.spawn(async move {
        let options = PullOptions::default();
        registry.pull(&reference, &options, observer, CancellationToken::new()).await
    });
    let is_resolved = || watch.0.lock().unwrap().iter().any(|event| matches!(event, Event::Resolved { .. }));
    while !is_resolved() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // It looks once more before it waits for the lock.
    std::thread::sleep(Duration::from_millis(300));
    let before = world.asked_for(&secret);
    for file in [LayerFile::Blob, LayerFile::Table, LayerFile::Tree] {
        fs::rename(elsewhere.layer(&digest, file), world.cache.layer(&digest, file)).unwrap();
    }
    lock.unlock().unwrap();
    let error = world.runtime.block_on(pulled).unwrap().unwrap_err();
    assert_eq!(error.code(), "ERR_NOT_FOUND", "{error}");
    assert!(!before.contains(&head()) && world.asked_for(&secret).contains(&head()), "{before:?}");
}

/// A directory that is mounted read-only until this is dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn of(directory: &Path) -> Option<Self> {
        let mount = |options: &str| {
            let mounted = Command::new("mount").args(["-o", options]).arg(directory).arg(directory).output();
            mounted.is_ok_and(|mounted| mounted.status.success())
        };
        if !mount("bind") {
            return None;
        }
        let mounted = Self(directory.to_owned());
        mount("remount,bind,ro").then_some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_read_only_cache_answers_what_was_proven_and_nothing_else() {
    let (world, shared) = (World::new(), layer("shared"));
    world.serve("team/app", &[&shared], &["a", "b"]);
    world.tenant("a").pull("team/app");
    let Some(_mount) = ReadOnly::of(world.cache.directory()) else {
        println!("skipped: a read-only mount needs root");
        return;
    };
    assert!(fs::write(world.cache.directory().join("x"), "").is_err(), "it can be written");
    let (a, b) = (world.tenant("a"), world.tenant("b"));
    let before = world.server.requests().len();
    assert!(a.is_cached("team/app") && a.pull("team/app").cached);
    let never = PullOptions { policy: PullPolicy::Never, ..PullOptions::default() };
    a.pull_with("team/app", &never).unwrap();
    assert!(!b.is_cached("team/app"));
    assert_eq!(b.pull_with("team/app", &never).unwrap_err().code(), "ERR_NOT_CACHED");
    assert_eq!(world.server.requests().len(), before);
    assert!(b.try_pull("team/app").is_err(), "there is nowhere to remember it");
}

#[test]
fn an_abort_ends_a_proof_that_the_registry_does_not_answer_within_250_ms() {
    let (world, shared) = (World::new(), layer("shared"));
    world.serve("team/app", &[&shared], &["a", "b"]);
    world.tenant("a").pull("team/app");
    let repository = world.repositories.lock().unwrap()["team/app"].clone();
    let stalling = Server::start(move |request| {
        if request.method == "HEAD" {
            std::thread::sleep(Duration::from_secs(3));
        }
        repository.reply(request)
    });
    let settings = Settings { access_scope: Some("b".to_owned()), ..Settings::default() };
    let auth = Some(RegistryAuth::Basic { username: "b".into(), password: Secret::new("secret") });
    let client = ClientOptions { auth, stall_timeout: Duration::from_secs(30), ..support::options() };
    let registry = Registry::new(world.cache.clone(), support::amd64(), client, settings).unwrap();
    let reference = Reference::parse(&format!("{}/team/app:latest", stalling.host)).unwrap();
    world.runtime.block_on(async {
        let (cancel, options) = (CancellationToken::new(), PullOptions::default());
        let stop = async {
            while !stalling.requests().iter().any(|request| request.method == "HEAD") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            cancel.cancel();
            std::time::Instant::now()
        };
        let pull = registry.pull(&reference, &options, Arc::new(Unobserved), cancel.clone());
        let (pulled, stopped) = tokio::join!(pull, stop);
        assert_eq!(pulled.unwrap_err().code(), "ERR_ABORTED");
        assert!(stopped.elapsed() < Duration::from_millis(250), "{:?}", stopped.elapsed());
    });
}

#[test]
fn prune_forgets_what_is_gone_and_nothing_else() {
    let (world, shared, own) = (World::new(), layer("shared"), layer("own"));
    world.serve("team/app", &[&shared], &["a", "b"]);
    world.serve("team/own", &[&shared, &own], &["a"]);
    world.tenant("a").pull("team/app");
    world.tenant("b").pull("team/app");
    world.tenant("a").pull("team/own");
    // A layer and a manifest for each of the first two; a layer in two repositories is another proof.
    assert_eq!(world.proofs().len(), 2 + 2 + 3);
    let leftover = world.proofs()[0].with_extension("0123456789abcdef.part");
    fs::write(&leftover, "").unwrap();
    let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
    world.cache.prune(&dry).unwrap();
    assert_eq!(world.proofs().len(), 8);
    world.cache.prune(&PruneOptions::default()).unwrap();
    assert_eq!(world.proofs().len(), 7);
    assert!(world.tenant("b").is_cached("team/app"));
    world.cache.remove(&world.reference("team/own")).unwrap();
    world.cache.prune(&PruneOptions::default()).unwrap();
    let text = |path: PathBuf| Digest::parse(fs::read_to_string(path).unwrap().trim()).unwrap();
    let digests: Vec<Digest> = world.proofs().into_iter().map(text).collect();
    assert!(!digests.contains(&images::sha256(&own)));
    // That of the shared layer in the other repository stays: the layer does.
    assert_eq!(digests.len(), 5);
    world.cache.prune(&PruneOptions { keep: Some(0), ..PruneOptions::default() }).unwrap();
    assert_eq!(world.proofs(), [] as [PathBuf; 0]);
}

#[test]
fn an_empty_scope_is_refused() {
    let (temp, settings) =
        (tempfile::tempdir().unwrap(), Settings { access_scope: Some(String::new()), ..Settings::default() });
    let made = Registry::new(GlobalCache::new(temp.path()), support::amd64(), support::options(), settings);
    let error = made.err().expect("it was taken");
    assert_eq!(error.code(), "ERR_INVALID_OPTION");
    assert!(error.to_string().contains("accessScope"), "{error}");
}
