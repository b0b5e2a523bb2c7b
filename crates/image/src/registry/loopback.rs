//! Names that claim to be this machine: plain HTTP is spoken to them, so their addresses are looked at.
//!
//! The lookup is the connection's own: what was looked at is what is connected to, and no second answer comes between.

use std::{io, net::SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::registry::endpoint::is_localhost;

/// Resolves names as the system does; `localhost` and names below it to loopback or to nothing.
#[derive(Clone, Copy)]
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(checked(name.as_str(), found)?.into_iter()) as Addrs)
        })
    }
}

/// The addresses, if a name that claims to be this machine has no other.
fn checked(name: &str, found: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    match found.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
        Some(other) if is_localhost(name) => {
            Err(io::Error::other(format!("the name stands for {}, which is not this machine", other.ip())))
        }
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_loopback_only_if_all_its_addresses_are() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect();
        for (name, found, good) in [
            ("localhost", vec!["127.0.0.1", "::1", "127.5.5.5", "::ffff:127.0.0.1"], true),
            ("localhost", vec!["127.0.0.1", "203.0.113.9"], false),
            ("Registry.LOCALHOST.", vec!["203.0.113.9"], false),
            ("localhost", vec!["fd00::1"], false),
            ("registry.example", vec!["203.0.113.9", "127.0.0.1"], true),
            ("localhost.example", vec!["203.0.113.9"], true),
        ] {
            assert_eq!(checked(name, addresses(&found)).is_ok(), good, "{name} {found:?}");
        }
    }
}
