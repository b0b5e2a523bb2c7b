//! Who gets to see a credential: explicit > callback > stored logins > nobody, each for its own host.

mod challenge;
mod docker_config;
mod helper;
mod lookup;
mod mask;
mod secret;
mod token;

pub use lookup::CredentialProvider;
pub use secret::{RegistryAuth, Secret};

pub(super) use challenge::Challenge;
pub(super) use lookup::{Credentials, Login};
pub(super) use mask::{Mask, Sent};
pub(super) use token::{Tokens, fetch_token};
