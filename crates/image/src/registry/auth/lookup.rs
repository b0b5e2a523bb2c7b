//! The order in which a credential is looked for.

use std::{
    collections::HashMap,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::{
        auth::{
            docker_config::{Found, Logins},
            helper,
            secret::RegistryAuth,
        },
        endpoint::canonical_host,
        options::{ClientOptions, CredentialSource, Environment},
    },
};

/// A caller's own source of credentials.
pub trait CredentialProvider: Send + Sync {
    /// The credential for a host (`ghcr.io`, `127.0.0.1:5000`); `None` passes the question on to stored logins.
    fn credential(&self, host: &str) -> Pin<Box<dyn Future<Output = Result<Option<RegistryAuth>>> + Send>>;
}

/// Where a credential came from, for what an error should say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum Login {
    /// There is none, or none was looked for.
    Unknown,
    /// The option `auth`.
    Option,
    /// The callback, a file or a helper.
    Stored,
}

/// A credential that was looked up.
struct Known {
    auth: RegistryAuth,
    login: Login,
    /// The files as they were before.
    files: Vec<Stamp>,
}

/// What changes when a file is written: inode, length, time of change. `None`: it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

/// Empty until it was looked up, and again when it was rejected.
type Cell = Arc<tokio::sync::Mutex<Option<Known>>>;

/// Credentials that were looked up, by server and repository: once, until a file of logins changes or one is rejected.
#[derive(Default)]
pub(in crate::registry) struct Credentials(Mutex<HashMap<(String, String), Cell>>);

impl Credentials {
    /// The credential for a server. `for_registry` is false for mirrors, to which the option `auth` does not belong.
    pub(in crate::registry) async fn find(
        &self,
        options: &Arc<ClientOptions>,
        host: &str,
        repository: &str,
        for_registry: bool,
    ) -> Result<(RegistryAuth, Login)> {
        if let Some(auth) = options.auth.as_ref().filter(|_| for_registry) {
            return Ok((auth.clone(), if auth.is_some() { Login::Option } else { Login::Unknown }));
        }
        let cell = {
            let mut known = self.0.lock().map_err(|_| ImageError::internal("a thread panicked over the logins"))?;
            Arc::clone(known.entry((host.to_owned(), repository.to_owned())).or_default())
        };
        let mut known = cell.lock().await;
        let files = stamps(options).await;
        if let Some(known) = known.as_ref().filter(|known| known.files == files) {
            return Ok((known.auth.clone(), known.login));
        }
        let auth = look_up(options, host, repository).await?;
        let login = if auth.is_some() { Login::Stored } else { Login::Unknown };
        *known = Some(Known { auth: auth.clone(), login, files });
        Ok((auth, login))
    }

    /// Forgets a stored credential that was rejected, unless another request has replaced it already: the helper or the
    /// callback is then asked again.
    pub(in crate::registry) async fn forget(&self, host: &str, repository: &str, rejected: &RegistryAuth) {
        let key = (host.to_owned(), repository.to_owned());
        let cell = self.0.lock().ok().and_then(|known| known.get(&key).cloned());
        if let Some(cell) = cell {
            let mut known = cell.lock().await;
            known.take_if(|known| known.auth == *rejected);
        }
    }
}

/// The files where logins are looked up, as they are now.
async fn stamps(options: &ClientOptions) -> Vec<Stamp> {
    let files = match &options.credentials {
        CredentialSource::None => return Vec::new(),
        CredentialSource::File(path) => vec![path.clone()],
        CredentialSource::Default => default_files(&options.environment),
    };
    let stamp = |path: &PathBuf| {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::metadata(path).ok()?;
        Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    };
    tokio::task::spawn_blocking(move || files.iter().map(stamp).collect()).await.unwrap_or_default()
}

async fn look_up(options: &Arc<ClientOptions>, host: &str, repository: &str) -> Result<RegistryAuth> {
    let host = canonical_host(host).to_owned();
    if let Some(provider) = &options.credential_provider
        && let Some(auth) = provider.credential(&host).await?
    {
        return Ok(auth);
    }
    let options = Arc::clone(options);
    let repository = repository.to_owned();
    // Files are read and helpers run off the async threads.
    let found = tokio::task::spawn_blocking(move || stored(&options, &host, &repository)).await;
    found.map_err(|_| ImageError::internal("looking up a stored login panicked"))?
}

fn stored(options: &ClientOptions, host: &str, repository: &str) -> Result<RegistryAuth> {
    for logins in files(&options.credentials, &options.environment)? {
        match logins.find(host, repository) {
            Some(Found::Here(auth)) => return Ok(auth),
            Some(Found::Helper { name, server }) => {
                if let Some(auth) = helper::ask(&name, &server, &options.environment)? {
                    return Ok(auth);
                }
            }
            None => {}
        }
    }
    Ok(RegistryAuth::Anonymous)
}

fn files(source: &CredentialSource, environment: &Environment) -> Result<Vec<Logins>> {
    match source {
        CredentialSource::None => Ok(Vec::new()),
        CredentialSource::File(path) => {
            let invalid = |reason: &str| ErrorKind::InvalidOption {
                option: "credentials".to_owned(),
                reason: format!("{}: {reason}", path.display()),
            };
            let bytes = std::fs::read(path).map_err(|error| invalid("can't be read").caused_by(error))?;
            Ok(vec![Logins::parse(&bytes).ok_or_else(|| invalid("is no Docker config.json"))?])
        }
        CredentialSource::Default => {
            let inline = environment.get("DOCKER_AUTH_CONFIG").and_then(|text| Logins::parse(text.as_bytes()));
            let read = |path: PathBuf| Logins::parse(&std::fs::read(path).ok()?);
            Ok(inline.into_iter().chain(default_files(environment).into_iter().filter_map(read)).collect())
        }
    }
}

/// Docker's file, then podman's, at their usual places.
fn default_files(environment: &Environment) -> Vec<PathBuf> {
    let home = environment.get("HOME").map(PathBuf::from);
    let docker = environment.get("DOCKER_CONFIG").map(PathBuf::from).or(home.as_ref().map(|home| home.join(".docker")));
    let config = environment.get("XDG_CONFIG_HOME").map(PathBuf::from).or(home.map(|home| home.join(".config")));
    let podman = match environment.get("REGISTRY_AUTH_FILE") {
        Some(file) => vec![PathBuf::from(file)],
        None => {
            let runtime = environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
            runtime.into_iter().chain(config).map(|directory| directory.join("containers/auth.json")).collect()
        }
    };
    docker.map(|directory| directory.join("config.json")).into_iter().chain(podman).collect()
}
