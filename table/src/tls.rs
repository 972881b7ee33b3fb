//! TLS between operator and proxies: one provider, named and never the process's default, and no resumption,
//! for a resumed session would outlive the certificate that it began with.

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// The provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificates of a bundle.
///
/// # Errors
/// In words, when there is none or one can't be read.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("it holds no certificates: {error}"))?;
    if certificates.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(certificates)
}

fn roots(bundle: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(bundle)? {
        roots.add(certificate).map_err(|error| format!("a certificate in it is no authority's: {error}"))?;
    }
    Ok(roots)
}

/// How a server of the table speaks: it shows what `serving` gives, and takes certificates signed by an authority
/// of `bundle` (PEM). Who shows none may ask for one and nothing else.
///
/// # Errors
/// In words, when the bundle holds no authority.
pub fn server_config(bundle: &[u8], serving: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(bundle)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("the bundle can't be used: {error}"))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A certificate (PEM) and its key.
#[derive(Debug)]
pub struct Holder {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// How a client speaks: the server must be signed by an authority of `bundle` (PEM); `holder` is who it is itself.
///
/// # Errors
/// In words, when the bundle or the certificate can't be used.
pub fn client_config(bundle: &[u8], holder: Option<&Holder>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(bundle)?);
    let mut config = match holder {
        None => builder.with_no_client_auth(),
        Some(holder) => {
            let chain = certificates(holder.certificate.as_bytes())?;
            builder
                .with_client_auth_cert(chain, holder.key.clone_key())
                .map_err(|error| format!("the certificate can't be used: {error}"))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}
