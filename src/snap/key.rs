//! RSA private keys as people have them: PKCS#8 or PKCS#1, PEM or DER, with Windows line ends, with `\n` written out as
//! two characters by an environment file, or as bare base64 with the header lines lost.

use aws_lc_rs::{error::KeyRejected, rand::SystemRandom, signature};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// A loaded private key. It shows nothing of itself.
pub struct PrivateKey(signature::RsaKeyPair);

/// Why a key cannot be used, in a sentence that says how to mend it. It never holds any of the key's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key is empty")]
    Empty,
    #[error(
        "the private key is encrypted; decrypt it first, for example with: openssl pkcs8 -in key.pem -out plain.pem"
    )]
    Encrypted,
    #[error("this is a public key; requests are signed with the private key that belongs to it")]
    Public,
    #[error("this is a certificate; requests are signed with the private key that belongs to it")]
    Certificate,
    #[error("this is an OpenSSH key file; convert a copy with: ssh-keygen -p -m PKCS8 -f key (SNAP needs an RSA key)")]
    OpenSsh,
    #[error("this is an elliptic-curve key; SNAP signs with RSA (SHA256withRSA)")]
    EllipticCurve,
    #[error("this is no RSA private key in PKCS#8 or PKCS#1 form, PEM or DER")]
    NotRsa,
    #[error("RSA keys of 2048 to 8192 bits are supported, and this one has more or fewer")]
    Size,
}

impl PrivateKey {
    /// Reads a key from a file's or a variable's bytes.
    ///
    /// # Errors
    /// Says what the bytes are instead.
    pub fn read(bytes: &[u8]) -> Result<Self, KeyError> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Self::from_der(bytes);
        };
        let text = text.replace("\\r", "").replace("\\n", "\n");
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let base64 = match text.split_once("-----BEGIN ") {
            None => text,
            Some((_, rest)) => {
                let (label, body) = rest.split_once("-----").ok_or(KeyError::NotRsa)?;
                match label {
                    "PRIVATE KEY" | "RSA PRIVATE KEY" => {}
                    "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
                    "PUBLIC KEY" | "RSA PUBLIC KEY" => return Err(KeyError::Public),
                    "CERTIFICATE" => return Err(KeyError::Certificate),
                    "OPENSSH PRIVATE KEY" => return Err(KeyError::OpenSsh),
                    "EC PRIVATE KEY" | "EC PARAMETERS" => return Err(KeyError::EllipticCurve),
                    _ => return Err(KeyError::NotRsa),
                }
                if body.contains("ENCRYPTED") {
                    return Err(KeyError::Encrypted);
                }
                body.split_once("-----END").ok_or(KeyError::NotRsa)?.0
            }
        };
        let base64: String = base64.split_whitespace().collect();
        Self::from_der(&STANDARD.decode(base64).map_err(|_| KeyError::NotRsa)?)
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        // DER of the object identifier 1.2.840.10045.2.1, id-ecPublicKey.
        const ID_EC: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        // DER of 1.2.840.113549.1.5.13, PBES2: a passphrase-protected PKCS#8.
        const ID_PBES2: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
        let holds = |id: &[u8]| der.windows(id.len()).take(64).any(|window| window == id);
        let is_size = |rejected: &KeyRejected| ["TooSmall", "TooLarge"].contains(&rejected.to_string().as_str());
        match (signature::RsaKeyPair::from_pkcs8(der), signature::RsaKeyPair::from_der(der)) {
            (Ok(key), _) | (_, Ok(key)) => Ok(Self(key)),
            (Err(one), Err(other)) if is_size(&one) || is_size(&other) => Err(KeyError::Size),
            _ if holds(&ID_EC) => Err(KeyError::EllipticCurve),
            _ if holds(&ID_PBES2) => Err(KeyError::Encrypted),
            _ => Err(KeyError::NotRsa),
        }
    }

    /// SHA256withRSA (RSASSA-PKCS1-v1_5): the same text always gives the same bytes.
    pub(super) fn sign(&self, text: &str) -> Vec<u8> {
        let mut out = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut out)
            .expect("a key that loaded signs a text of any length");
        out
    }

    /// The public half, in DER, for whoever checks signatures made with this key.
    pub fn public_der(&self) -> Vec<u8> {
        use aws_lc_rs::signature::KeyPair;
        self.0.public_key().as_ref().to_vec()
    }

    pub fn bits(&self) -> usize {
        self.0.public_modulus_len() * 8
    }

    /// SHA-256 of the public half as `openssl pkey -pubout -outform DER` writes it, in hexadecimal: what a provider can
    /// compare with the key that it has registered.
    pub fn fingerprint(&self) -> String {
        use aws_lc_rs::{
            encoding::{AsDer, PublicKeyX509Der},
            signature::KeyPair,
        };
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().expect("a key that loaded can be written");
        hex::encode(Sha256::digest(der.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = include_str!("../../tests/vectors/midtrans-public-sample-key.pem");

    fn der() -> Vec<u8> {
        let base64: String = PEM.lines().filter(|line| !line.starts_with(['-', '#'])).collect();
        STANDARD.decode(base64).unwrap()
    }

    /// A PKCS#8 key holds the PKCS#1 one as its last octet string, after a header of 26 bytes for 2048 bits.
    fn pkcs1() -> Vec<u8> {
        der()[26..].to_vec()
    }

    fn error(bytes: &[u8]) -> KeyError {
        PrivateKey::read(bytes).err().expect("no usable key")
    }

    #[test]
    fn every_usual_form_of_a_key_loads_and_signs_the_same() {
        let bare = STANDARD.encode(der());
        let pkcs1_pem =
            format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", STANDARD.encode(pkcs1()));
        let forms: [Vec<u8>; 9] = [
            PEM.into(),
            PEM.replace('\n', "\r\n").into(),
            PEM.replace('\n', "\\n").into(),
            PEM.replace('\n', "\\r\\n").into(),
            format!("\u{feff}\n  {PEM}").into(),
            bare.into(),
            der(),
            pkcs1(),
            pkcs1_pem.into(),
        ];
        let expected = PrivateKey::read(PEM.as_bytes()).unwrap().sign("text");
        for (at, form) in forms.iter().enumerate() {
            assert_eq!(PrivateKey::read(form).unwrap_or_else(|e| panic!("form {at}: {e}")).sign("text"), expected);
        }
    }

    #[test]
    fn anything_else_is_named() {
        let pem =
            |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes();
        assert_eq!(error(b" \n"), KeyError::Empty);
        assert_eq!(error(&pem("ENCRYPTED PRIVATE KEY", "AAAA")), KeyError::Encrypted);
        assert_eq!(error(&pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nAAAA")), KeyError::Encrypted);
        assert_eq!(error(&pem("PUBLIC KEY", "AAAA")), KeyError::Public);
        assert_eq!(error(&pem("CERTIFICATE", "AAAA")), KeyError::Certificate);
        assert_eq!(error(&pem("OPENSSH PRIVATE KEY", "AAAA")), KeyError::OpenSsh);
        assert_eq!(error(&pem("EC PRIVATE KEY", "AAAA")), KeyError::EllipticCurve);
        assert_eq!(error(&pem("PRIVATE KEY", "AAAA")), KeyError::NotRsa);
        assert_eq!(error(b"-----BEGIN PRIVATE KEY-----\nAAAA"), KeyError::NotRsa);
        assert_eq!(error(b"hunter2"), KeyError::NotRsa);
        assert_eq!(error(include_bytes!("../../tests/vectors/too-small-key.pem")), KeyError::Size);
        assert_eq!(error(&[0x30, 0x82, 0xff, 0x00, 0x80]), KeyError::NotRsa);
    }

    #[test]
    fn the_fingerprint_is_the_one_that_openssl_gives() {
        let key = PrivateKey::read(PEM.as_bytes()).unwrap();
        assert_eq!(key.bits(), 2048);
        assert_eq!(key.fingerprint(), "9c12a84a902354de8bc9efbbe86bb73442174c41b4cbab8d603456ced4dc5f37");
    }

    #[test]
    fn an_error_never_shows_the_key() {
        for bytes in [&b"c2VjcmV0LXNlY3JldA=="[..], b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"]
        {
            assert!(!error(bytes).to_string().contains("c2Vj"));
        }
    }
}
