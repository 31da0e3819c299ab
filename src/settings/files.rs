//! What the settings name: files, variables, certificates and keys.

use super::{
    raw::{self, SecretSource, Text},
    reader::Reader,
};
use crate::snap::{
    client::{self, Client},
    key::PrivateKey,
};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;

/// What a PEM file is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pem {
    Certificate,
    Key,
}

impl Reader<'_> {
    /// A certificate chain and its key, in PEM.
    pub fn identity(
        &mut self,
        section: &str,
        cert: Option<&PathBuf>,
        key: Option<&PathBuf>,
    ) -> Option<(Vec<u8>, SecretString)> {
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let cert = self.pem(&format!("{section}.cert_file"), cert, Pem::Certificate);
                let key = self.pem(&format!("{section}.key_file"), key, Pem::Key);
                cert.zip(key.map(|key| String::from_utf8_lossy(&key).into_owned().into()))
            }
            (None, None) => None,
            (cert, _) => {
                let (given, missing) =
                    if cert.is_some() { ("cert_file", "key_file") } else { ("key_file", "cert_file") };
                if !self.mistakes.is_told(&format!("{section}.{missing}")) {
                    let reason = format!("needs {missing} beside it: a certificate and its key belong together");
                    self.problem(&format!("{section}.{given}"), reason);
                }
                None
            }
        }
    }

    /// Whether a connection can be made with these certificates.
    pub fn certificates(&mut self, section: &str, options: &client::Options) {
        if options.ca.is_none() && options.identity.is_none() {
            return;
        }
        let of_certificates = client::Options {
            ca: options.ca.clone(),
            identity: options.identity.clone(),
            ..client::Options::default()
        };
        if let Err(error) = Client::new(&of_certificates) {
            let key = if error.contains("look at ca_file)") || error.starts_with("ca_file") {
                "ca_file"
            } else {
                "cert_file"
            };
            let reason = error.strip_prefix(client::CANNOT_BE_SET_UP).unwrap_or(&error);
            self.problem(&format!("{section}.{key}"), format!("no connection can be made with it: {reason}"));
        }
    }

    /// A PEM file with a block of this kind.
    pub fn pem(&mut self, key: &str, path: &PathBuf, wanted: Pem) -> Option<Vec<u8>> {
        let bytes = self.file(key, path)?;
        let text = String::from_utf8_lossy(&bytes);
        let labels: Vec<_> =
            text.split("-----BEGIN ").skip(1).filter_map(|rest| Some(rest.split_once("-----")?.0)).collect();
        let is_wanted = |label: &&str| match wanted {
            Pem::Certificate => label.ends_with("CERTIFICATE"),
            Pem::Key => matches!(*label, "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY"),
        };
        if labels.iter().any(is_wanted) {
            return Some(bytes);
        }
        let what = match wanted {
            Pem::Certificate => "a certificate in PEM (-----BEGIN CERTIFICATE-----)",
            Pem::Key => "a private key in PEM (-----BEGIN PRIVATE KEY-----)",
        };
        let instead = match labels.first() {
            _ if text.trim().is_empty() => "is empty".to_owned(),
            Some(label) if label.starts_with("ENCRYPTED") => "holds an encrypted key; decrypt it first".into(),
            Some(label) if label.len() <= 40 => format!("holds a {} instead", label.to_ascii_lowercase()),
            _ if bytes.first() == Some(&0x30) => "looks like DER; convert it with openssl".into(),
            _ => "holds no PEM at all".into(),
        };
        self.problem(key, format!("the file {} must hold {what}, and {instead}", path.display()));
        None
    }

    pub fn private_key(&mut self, key: &str, source: &SecretSource) -> Option<PrivateKey> {
        let bytes = self.bytes(key, source)?;
        PrivateKey::read(&bytes).map_err(|error| self.problem(key, format!("{}: {error}", source.name()))).ok()
    }

    pub fn text(&mut self, key: &str, text: &Text) -> Option<String> {
        match text {
            Text::Plain(text) if text.starts_with('$') => {
                self.problem(key, "variables are not filled in here: give { env = \"NAME\" }");
                None
            }
            Text::Plain(text) => Some(text.clone()),
            Text::From(source) => self.secret(key, source).map(|secret| secret.expose_secret().to_owned()),
        }
    }

    pub fn secret(&mut self, key: &str, source: &SecretSource) -> Option<SecretString> {
        let bytes = self.bytes(key, source)?;
        // An editor ends a file with a new line, which is no part of a secret.
        let text = String::from_utf8(bytes).ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        match text {
            Some(text) if !text.is_empty() => Some(text.into()),
            Some(_) => {
                self.problem(key, format!("{} is empty", source.name()));
                None
            }
            None => {
                self.problem(key, format!("{} is not a text in UTF-8", source.name()));
                None
            }
        }
    }

    pub fn bytes(&mut self, key: &str, source: &SecretSource) -> Option<Vec<u8>> {
        match source {
            SecretSource::Env(name) => match self.environment.get(name) {
                Some(value) => Some(value.clone().into_bytes()),
                None => {
                    self.problem(key, format!("{} is not set", raw::variable(name)));
                    None
                }
            },
            SecretSource::File(path) => self.file(key, path),
        }
    }

    pub fn file(&mut self, key: &str, path: &PathBuf) -> Option<Vec<u8>> {
        std::fs::read(self.base.join(path))
            .map_err(|e| self.problem(key, format!("{} cannot be read: {e}", raw::file(path))))
            .ok()
    }
}
