//! Authorities, certificates and TLS servers made for a test.
#![allow(dead_code, reason = "each of its users uses a part")]

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use secrecy::SecretString;
use std::sync::Arc;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::PrivateKeyDer,
        server::WebPkiClientVerifier,
        version::{TLS12, TLS13},
    },
};

pub static OLD: &[&SupportedProtocolVersion] = &[&TLS12];
pub static NEW: &[&SupportedProtocolVersion] = &[&TLS13];
pub static BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The PEM of a certificate for us, and of its key.
    pub fn identity(&self) -> (Vec<u8>, SecretString) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "worker");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into())
    }

    /// A server whose certificate is for this name or address.
    pub fn server(&self, name: &str) -> Server<'_> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Server { params, versions: BOTH, clients: None, alpn: &[], authority: self }
    }
}

pub struct Server<'a> {
    pub params: CertificateParams,
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Who has to have signed the client's certificate, if there must be one.
    pub clients: Option<&'a Authority>,
    pub alpn: &'static [&'static str],
    pub authority: &'a Authority,
}

impl Server<'_> {
    pub fn acceptor(self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params.signed_by(&key, &self.authority.issuer).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(self.versions).unwrap();
        let builder = match self.clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
