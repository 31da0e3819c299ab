//! The HTTP client: the only file that knows reqwest.
//!
//! It sends a request once and says what became of it. Nothing is repeated behind our back: no redirects, no retries of
//! the client's own. What matters in every error is whether the provider may have received the request.

use super::{Reply, SendError, request::SignedRequest, response};
use chrono::{DateTime, Utc};
use reqwest::{header, redirect, tls};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// No answer of a provider is longer; more is not read.
const MAX_BODY: usize = 256 * 1024;
/// A Retry-After longer than this is taken as this.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(3600);

/// How to reach a provider.
#[derive(Debug, Clone)]
pub struct Options {
    /// For name lookup, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For the whole call, the connection included.
    pub timeout: Duration,
    pub min_tls: MinTls,
    /// Address of an HTTP proxy; it can hold a password.
    pub proxy: Option<SecretString>,
    /// PEM of the authorities to trust instead of the system's.
    pub ca: Option<Vec<u8>>,
    /// PEM of our certificate chain and its key, for a provider that wants to see one.
    pub identity: Option<(Vec<u8>, SecretString)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(20),
            min_tls: MinTls::default(),
            proxy: None,
            ca: None,
            identity: None,
        }
    }
}

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
pub enum MinTls {
    #[serde(rename = "1.2")]
    V1_2,
    /// ASPI's "Keamanan" page allows 1.2 until 30 June 2026 only.
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

/// A connection pool to one provider.
pub struct Client {
    http: reqwest::Client,
    timeout: Duration,
}

impl Client {
    /// # Errors
    /// When TLS cannot be set up, for example because the system has no certificates.
    pub fn new(options: &Options) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .tls_version_min(match options.min_tls {
                MinTls::V1_2 => tls::Version::TLS_1_2,
                MinTls::V1_3 => tls::Version::TLS_1_3,
            })
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // A proxy is an account's setting, not an accident of the environment.
            .no_proxy()
            .tcp_nodelay(true)
            // Shorter than servers usually keep a connection: a request that goes out just as it is closed is ambiguous.
            .pool_idle_timeout(Duration::from_secs(20))
            .build()
            .map_err(|e| format!("the HTTP client cannot be set up: {}", chain(&e)))?;
        Ok(Self { http, timeout: options.timeout })
    }

    /// Sends a request and reads its reply, once, within the time limit.
    ///
    /// # Errors
    /// Says whether the provider may have received it.
    pub async fn send(&self, request: SignedRequest) -> Result<Reply, SendError> {
        let mut call = self.http.post(&request.url).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in &request.headers {
            let mut value = header::HeaderValue::from_str(value.expose_secret())
                .map_err(|_| SendError::NotSent(format!("the value of header {name} cannot be sent")))?;
            value.set_sensitive(true);
            call = call.header(name, value);
        }
        let mut response = call.body(request.body).send().await.map_err(|e| self.error(&e))?;
        let http_status = response.status().as_u16();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after =
            header(header::RETRY_AFTER).and_then(|value| response::retry_after(value, Utc::now(), RETRY_AFTER_CAP));
        let date = header(header::DATE).and_then(|value| DateTime::parse_from_rfc2822(value).ok());
        let date = date.map(|date| date.to_utc());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.error(&e))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(SendError::Broken(format!("the answer is longer than {MAX_BODY} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { http_status, body, retry_after, date })
    }

    fn error(&self, error: &reqwest::Error) -> SendError {
        match error {
            // Name lookup, TCP and TLS: no byte of the request was written.
            e if e.is_connect() || e.is_builder() => SendError::NotSent(chain(e)),
            e if e.is_timeout() => SendError::TimedOut(self.timeout),
            e => SendError::Broken(chain(e)),
        }
    }
}

/// An error with its causes, without the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
