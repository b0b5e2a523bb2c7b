//! A server whose certificate is itself among those that the caller trusts.
//!
//! Private registries often use one self-signed certificate as authority and as the server's own. The standard
//! verifier refuses that, because an authority is not a server. Here it is accepted if it is, byte for byte, one that
//! the caller added; its dates and its name must be right all the same. Everything else is left to the standard one.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::{ImageError, Result};

/// The standard verifier, and certificates that stand for themselves.
#[derive(Debug)]
pub(super) struct OwnOrSigned {
    standard: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl OwnOrSigned {
    pub(super) fn new(roots: RootCertStore, own: Vec<CertificateDer<'static>>) -> Result<Arc<Self>> {
        let provider = Arc::new(ring::default_provider());
        let standard = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| ImageError::internal(format!("TLS can't be set up: {error}")))?;
        Ok(Arc::new(Self { standard, own }))
    }
}

impl ServerCertVerifier for OwnOrSigned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        let verified = self.standard.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // The verifier looks at the dates before it looks at who may be a server.
        match verified {
            Err(error) if is_authority_as_server(&error) && self.own.iter().any(|own| own == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.standard.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.standard.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.standard.supported_verify_schemes()
    }
}

/// rustls hands this one fault of webpki on without a name of its own.
fn is_authority_as_server(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else { return false };
    cause.to_string() == "CaUsedAsEndEntity"
}
