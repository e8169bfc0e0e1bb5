//! TLS to upstreams. The host trusts the machine's roots, and those of a file that the operator names.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::outbound::OutboundError;
use crate::grants::http::UrlHost;

/// Encrypts connections. It reads the machine's roots at the first use.
#[derive(Debug)]
pub(super) struct Tls {
    extra: Vec<CertificateDer<'static>>,
    config: OnceCell<Option<Arc<ClientConfig>>>,
}

impl Tls {
    /// Trusts the machine's roots and those in `ca_file`, in PEM.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, OutboundError> {
        let extra = match ca_file {
            None => Vec::new(),
            Some(path) => {
                let fail = |reason: String| OutboundError::CaFile { path: path.to_owned(), reason };
                let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let found = read.map_err(|error| fail(error.to_string()))?;
                let mut checked = RootCertStore::empty();
                if found.is_empty() {
                    return Err(fail("it has no certificate in PEM".to_owned()));
                }
                for certificate in &found {
                    checked.add(certificate.clone()).map_err(|error| fail(error.to_string()))?;
                }
                found
            }
        };
        Ok(Self { extra, config: OnceCell::new() })
    }

    /// A connector; none if this machine has no roots and the operator named none.
    pub(super) async fn connector(&self) -> Option<TlsConnector> {
        let config = self.config.get_or_init(|| async {
            let extra = self.extra.clone();
            tokio::task::spawn_blocking(move || configure(extra)).await.ok().flatten()
        });
        config.await.clone().map(TlsConnector::from)
    }
}

/// Blocks on the disk.
fn configure(extra: Vec<CertificateDer<'static>>) -> Option<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a root certificate of this machine is not used");
    }
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs.into_iter().chain(extra));
    if added == 0 {
        tracing::error!("this machine has no root certificates, so no HTTPS request can succeed; set outbound.ca_file");
        return None;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config
        .inspect_err(|error| tracing::error!(%error, "TLS cannot be set up"))
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A resumed session would tell an upstream that two tenants share a host.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
}

/// The name that the upstream's certificate must be for.
pub(super) fn server_name(host: &UrlHost) -> Option<ServerName<'static>> {
    match host {
        UrlHost::Name(name) => ServerName::try_from(name.clone()).ok(),
        UrlHost::Address(address) => Some(ServerName::from(*address)),
    }
}
