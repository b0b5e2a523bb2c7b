//! The order in which a credential is looked for.

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc};

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

/// The credential for a server. `for_registry` is false for mirrors, to which the explicit option does not belong.
pub(in crate::registry) async fn find_credential(
    options: &Arc<ClientOptions>,
    host: &str,
    repository: &str,
    for_registry: bool,
) -> Result<RegistryAuth> {
    if let Some(auth) = options.auth.as_ref().filter(|_| for_registry) {
        return Ok(auth.clone());
    }
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
