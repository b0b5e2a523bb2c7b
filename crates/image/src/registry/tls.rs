//! Whom to trust: the system's roots, or bundled ones where it has none, and the certificates a caller adds.

use std::{io::BufReader, path::Path, sync::Arc};

use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::{
        options::{ClientOptions, Environment},
        pinned::OwnOrSigned,
    },
};

/// Certificates that a caller adds, read when the options are taken so that a bad one is told at once.
pub(super) fn parse_added(options: &ClientOptions) -> Result<Vec<CertificateDer<'static>>> {
    let mut added = Vec::new();
    for pem in &options.ca_certificates {
        added.extend(parse_pem("caCertificates", pem)?);
    }
    Ok(added)
}

fn parse_pem(option: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let invalid = |reason: &str| ErrorKind::InvalidOption { option: option.to_owned(), reason: reason.to_owned() };
    let certificates: Vec<_> = CertificateDer::pem_reader_iter(BufReader::new(pem))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| invalid("it is no PEM text of certificates"))?;
    if certificates.is_empty() {
        return Err(invalid("there is no certificate in it").into());
    }
    let mut trial = RootCertStore::empty();
    for certificate in &certificates {
        trial.add(certificate.clone()).map_err(|error| invalid("a certificate in it is damaged").caused_by(error))?;
    }
    Ok(certificates)
}

/// Settings for connections in TLS. Reads the system's roots, which takes some ten milliseconds.
pub(super) fn config(added: &[CertificateDer<'static>], environment: &Environment) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let set = |name: &str| environment.get(name).map(Path::new);
    let (file, directory) = (set("SSL_CERT_FILE"), set("SSL_CERT_DIR"));
    let found = match (file.filter(|file| file.is_file()), directory.filter(|directory| directory.is_dir())) {
        (None, None) => rustls_native_certs::load_native_certs(),
        (file, directory) => rustls_native_certs::load_certs_from_paths(file, directory),
    };
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let mut pinned = added.to_vec();
    if let Some(file) = set("NODE_EXTRA_CA_CERTS").filter(|file| file.is_file()) {
        pinned.extend(read_file(file)?);
    }
    roots.add_parsable_certificates(pinned.iter().cloned());
    with_roots(roots, pinned)
}

/// Settings for a client that speaks only plain HTTP: they trust nobody.
pub(super) fn no_config() -> Result<ClientConfig> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn with_roots(roots: RootCertStore, pinned: Vec<CertificateDer<'static>>) -> Result<ClientConfig> {
    if pinned.is_empty() {
        return Ok(builder()?.with_root_certificates(roots).with_no_client_auth());
    }
    let verifier = OwnOrSigned::new(roots, pinned)?;
    Ok(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    // The provider is named here: a process-wide default would be set by whoever comes first.
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ImageError::internal(format!("TLS can't be set up: {error}")))
}

fn read_file(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| {
        let reason = "the file with certificates can't be read".to_owned();
        ErrorKind::InvalidOption { option: file.display().to_string(), reason }.caused_by(error)
    })?;
    Ok(certificates.filter_map(std::result::Result::ok).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_pem_is_told_at_once() {
        for bad in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let options = ClientOptions { ca_certificates: vec![bad.into()], ..ClientOptions::default() };
            assert_eq!(parse_added(&options).unwrap_err().code(), "ERR_INVALID_OPTION", "{bad}");
        }
    }
}
