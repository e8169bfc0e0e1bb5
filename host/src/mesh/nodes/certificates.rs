//! GHSA-5hq8-qhww-jm7q: a certificate of QUIC that is no peer's must end its own connection, and nothing else.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};

use super::*;

/// The extension in which a peer proves its key.
const PEER_KEY: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];

/// Believes every server, as an attacker does.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate with this in the place of a peer's key; without the extension if there is nothing.
fn certificate(extension: Option<&[u8]>) -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.custom_extensions = extension
        .map(|content| rcgen::CustomExtension::from_oid_content(&PEER_KEY, content.to_vec()))
        .into_iter()
        .collect();
    let certificate = params.self_signed(&key).expect("signed");
    (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()))
}

async fn refused(at: SocketAddr, extension: Option<&[u8]>) -> bool {
    let provider = Arc::new(ring::default_provider());
    let (certificate, key) = certificate(extension);
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_auth_cert(vec![certificate], key.into())
        .expect("a certificate");
    tls.alpn_protocols = vec![b"libp2p".to_vec()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("usable with QUIC");
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let connecting = endpoint.connect_with(quinn::ClientConfig::new(Arc::new(quic)), at, "peer").expect("begun");
    match tokio::time::timeout(PATIENCE, connecting).await.expect("in time") {
        Err(_) => true,
        // The client has finished its part before the host has judged it.
        Ok(connection) => tokio::time::timeout(PATIENCE, connection.closed()).await.is_ok(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_no_peers_ends_its_connection_alone() {
    let (b, in_b) = node(|_| {}).await;
    echo(in_b);
    let at = address(&b, "/quic-v1");
    let port = at.split('/').nth(4).expect("a port").parse::<u16>().expect("a number");
    let long = vec![0x30; 10_000];
    for extension in [None, Some(&[][..]), Some(&[0x30, 0x80][..]), Some(&[0xff; 40][..]), Some(&long)] {
        assert!(refused(([127, 0, 0, 1], port).into(), extension).await, "{extension:?}");
    }
    assert!(b.peers().is_empty());
    let (a, _in_a) = node(|_| {}).await;
    let peer = a.connect(&at, PATIENCE).await.expect("the host is well");
    let mut stream = a.open(&peer, ECHO, PATIENCE).await.expect("a stream");
    round_trip(&mut stream, "well").await;
}
