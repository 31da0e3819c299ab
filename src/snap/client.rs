//! The HTTP client for providers: beside the exporter of traces, the only file that knows reqwest.
//!
//! It sends a request once and says what became of it. Nothing is repeated behind our back: no redirects, no retries of
//! the client's own. What matters in every error is whether the provider may have received the request.
//!
//! That is not read out of the error: a request has one [`Ticket`], which goes either to the connection, just before it
//! writes the first byte, or to us, when the call has failed before. Whoever comes second gets nothing.

mod ticket;

use super::{Reply, SendError, request::SignedRequest, response};
use crate::traces::Span;
use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use reqwest::{Certificate, Identity, Proxy, Url, header, redirect, tls};
use secrecy::{ExposeSecret, SecretString};
use std::{pin::pin, time::Duration};
use ticket::{Body, Ticket};

/// No answer of a provider is longer; more is not read.
const MAX_BODY: usize = 256 * 1024;
/// hyper keeps a head of up to 400 KiB back until it has taken the body, and only so long is the [`Ticket`] to be relied on.
const MAX_HEAD: usize = 256 * 1024;
/// A Retry-After longer than this is taken as this.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(3600);

/// How an error begins where certificates do not fit, or the system has none.
pub const CANNOT_BE_SET_UP: &str = "the HTTP client cannot be set up: ";

/// How to reach a provider.
#[derive(Debug, Clone)]
pub struct Options {
    /// For name lookup, TCP, the proxy and TLS together.
    pub connect_timeout: Duration,
    /// For the whole call, the connection included.
    pub timeout: Duration,
    pub min_tls: MinTls,
    /// Address of an HTTP proxy, http:// or https://; it can hold a user and password. Without one there is none, whatever
    /// the environment says.
    pub proxy: Option<SecretString>,
    /// PEM of the authorities to trust instead of the system's; an https:// proxy's certificate is judged by them, too.
    pub ca: Option<Vec<u8>>,
    /// PEM of our certificate chain and its key, for a provider that wants to see one.
    pub identity: Option<(Vec<u8>, SecretString)>,
    /// A traced request names its span to the provider.
    pub send_traceparent: bool,
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
            send_traceparent: false,
        }
    }
}

impl Options {
    /// Whether the other goes the same way: by the same proxy, with the same certificates.
    pub fn goes_the_way_of(&self, other: &Self) -> bool {
        let way = |options: &Self| {
            let shown = |secret: &SecretString| secret.expose_secret().to_owned();
            let identity = options.identity.as_ref().map(|(chain, key)| (chain.clone(), shown(key)));
            (options.proxy.as_ref().map(shown), options.ca.clone(), identity)
        };
        way(self) == way(other)
    }
}

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Deserialize)]
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
    min_tls: MinTls,
    send_traceparent: bool,
}

impl Client {
    /// # Errors
    /// When TLS cannot be set up (the system has no certificates, or the given ones are no good), or the proxy's address
    /// is none.
    pub fn new(options: &Options) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .tls_version_min(match options.min_tls {
                MinTls::V1_2 => tls::Version::TLS_1_2,
                MinTls::V1_3 => tls::Version::TLS_1_3,
            })
            // HTTP/2 has repeats of its own, and takes a body later than the head.
            .http1_only()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // A proxy is an account's setting, not an accident of the environment. This forgets all proxies, so it comes first.
            .no_proxy()
            .tcp_nodelay(true)
            // Shorter than servers usually keep a connection: a request that goes out just as it is closed is ambiguous.
            .pool_idle_timeout(Duration::from_secs(20));
        if let Some(address) = &options.proxy {
            builder = builder.proxy(proxy(address)?);
        }
        if let Some(pem) = &options.ca {
            builder = builder.tls_certs_only(authorities(pem)?);
        }
        if let Some((chain, key)) = &options.identity {
            builder = builder.identity(identity(chain, key)?);
        }
        let http = builder.build().map_err(|e| {
            let suspects = match (&options.ca, &options.identity) {
                (None, None) => "",
                (Some(_), None) => " (look at ca_file)",
                (None, Some(_)) => " (look at cert_file and key_file)",
                (Some(_), Some(_)) => " (look at ca_file, cert_file and key_file)",
            };
            format!("{CANNOT_BE_SET_UP}{}{suspects}", chain_of(&e))
        })?;
        let &Options { timeout, min_tls, send_traceparent, .. } = options;
        Ok(Self { http, timeout, min_tls, send_traceparent })
    }

    /// Opens the span of a request, in the trace of the command that it is made for. The provider is told of it if the settings
    /// say so; no signature covers that.
    pub fn trace(&self, request: &mut SignedRequest) -> Span {
        let span = Span::call(request);
        if let Some(traceparent) = span.traceparent().filter(|_| self.send_traceparent) {
            request.headers.push(("traceparent".into(), traceparent.into()));
        }
        span
    }

    /// Sends a request and reads its reply, once, within the time limit.
    ///
    /// # Errors
    /// Says whether the provider may have received it.
    pub async fn send(&self, request: SignedRequest) -> Result<Reply, SendError> {
        self.send_before(request, None).await
    }

    /// The same, and no byte of it leaves after a time. What has begun to go out by then is read to its end.
    ///
    /// # Errors
    /// Says whether the provider may have received it.
    pub async fn send_before(
        &self,
        request: SignedRequest,
        not_after: Option<DateTime<Utc>>,
    ) -> Result<Reply, SendError> {
        let mut call = self.http.post(&request.url).header(header::CONTENT_TYPE, "application/json");
        let mut head = request.url.len();
        for (name, value) in &request.headers {
            let mut value = header::HeaderValue::from_str(value.expose_secret())
                .map_err(|_| SendError::NotSent(format!("the value of header {name} cannot be sent")))?;
            value.set_sensitive(true);
            head += name.len() + value.len();
            call = call.header(name, value);
        }
        if head > MAX_HEAD {
            return Err(SendError::NotSent(format!("the headers are longer than {MAX_HEAD} bytes")));
        }
        let secrets = secrets_of(&request);
        let ticket = Ticket::until(not_after);
        let request_body = Bytes::from(request.body);
        let body = Body::new(request_body.clone(), ticket.clone());
        let failed = |e: reqwest::Error| match e {
            e if ticket.take() => match ticket.has_expired() {
                true => SendError::TooLate,
                false => SendError::NotSent(self.explain(&e)),
            },
            e if e.is_timeout() => SendError::TimedOut(self.timeout),
            // Also where a TLS 1.3 server refuses our certificate, or the lack of one: it says so only after we may write.
            e => SendError::Broken(self.explain(&e)),
        };
        let mut sending = pin!(call.body(reqwest::Body::wrap(body)).send());
        // Name lookup, TCP, proxy and TLS can outlast the limit.
        let sent = tokio::select! {
            biased;
            sent = &mut sending => sent,
            () = ticket.expires() => match ticket.take() {
                true => return Err(SendError::TooLate),
                false => sending.await,
            },
        };
        let mut response = sent.map_err(failed)?;
        let http_status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let date = date(response.headers());
        // A date is one by the provider's clock.
        let now = date.unwrap_or_else(Utc::now);
        let retry_after = retry_after.and_then(|value| response::retry_after(value, now, RETRY_AFTER_CAP));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(SendError::Broken(format!("the answer is longer than {MAX_BODY} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        // What a provider repeats of our secrets must not get into a log or an event.
        for secret in &secrets {
            blot_out(&mut body, secret);
        }
        // A gateway's refusal may come with another status; its body then says 401.
        let refused =
            response::Answer::read(&body).and_then(|answer| answer.code).is_some_and(|c| c.http_status() == 401);
        if http_status == 401 || refused {
            response::blot_out_signatures(&mut body, &request_body);
        }
        Ok(Reply { http_status, body, retry_after, date })
    }

    /// Asks for a page's head, which changes nothing: is somebody there, and what is the time there?
    ///
    /// # Errors
    /// Says what went wrong.
    pub async fn look(&self, url: &str) -> Result<Reply, SendError> {
        let failed = |e: reqwest::Error| match e {
            e if e.is_connect() || e.is_builder() => SendError::NotSent(self.explain(&e)),
            e if e.is_timeout() => SendError::TimedOut(self.timeout),
            e => SendError::Broken(self.explain(&e)),
        };
        let response = self.http.head(url).send().await.map_err(failed)?;
        let date = date(response.headers());
        Ok(Reply { http_status: response.status().as_u16(), body: Vec::new(), retry_after: None, date })
    }

    /// What went wrong, and what may mend it.
    fn explain(&self, error: &reqwest::Error) -> String {
        let text = chain_of(error);
        let other_version = text.contains("ProtocolVersion") || text.contains("TlsVersion");
        if other_version && self.min_tls > MinTls::V1_2 {
            return format!("{text} (does it speak TLS 1.2 only? min_tls = \"1.2\" allows that)");
        }
        if text.contains("tunnel error: unsuccessful") {
            return format!("{text} (the proxy does not let us through)");
        }
        text
    }
}

/// The reason would show the address, and with it the password.
fn proxy(address: &SecretString) -> Result<Proxy, String> {
    let url = Url::parse(address.expose_secret()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    // What hyper cannot read as an address is no proxy to it, and it would go without one.
    let url = url.filter(|url| url.as_str().parse::<hyper::Uri>().is_ok());
    let proxy = url.and_then(|url| Proxy::all(url).ok());
    proxy.ok_or_else(|| "proxy is no address like http://proxy.example.co.id:3128".to_owned())
}

fn authorities(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    match Certificate::from_pem_bundle(pem) {
        Ok(certificates) if certificates.is_empty() => Err("ca_file holds no certificate in PEM".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(e) => Err(format!("ca_file cannot be read: {}", chain_of(&e))),
    }
}

fn identity(chain: &[u8], key: &SecretString) -> Result<Identity, String> {
    let pem = [chain, b"\n", key.expose_secret().as_bytes()].concat();
    Identity::from_pem(&pem).map_err(|e| format!("cert_file or key_file cannot be read: {}", chain_of(&e)))
}

/// The signature and the token.
fn secrets_of(request: &SignedRequest) -> Vec<String> {
    let both = [Some(&request.signature), request.token.as_ref()].into_iter().flatten();
    both.map(|secret| secret.expose_secret().to_owned()).filter(|secret| !secret.is_empty()).collect()
}

/// So much of a secret's beginning is blotted out, too: an answer may cut off what it repeats.
const LEAST_REPEATED: usize = 16;

/// Blots out a secret, also as JSON has it with any of its characters escaped.
fn blot_out(text: &mut [u8], secret: &str) {
    let mut at = 0;
    while at < text.len() {
        let (repeated, len) = repeated(&text[at..], secret.as_bytes());
        if repeated == secret.len() || repeated >= LEAST_REPEATED {
            text[at..at + len].fill(b'*');
            at += len;
        } else {
            at += 1;
        }
    }
}

/// How much of the secret a text begins with, and how long that is there.
fn repeated(text: &[u8], secret: &[u8]) -> (usize, usize) {
    let mut len = 0;
    for (at, byte) in secret.iter().enumerate() {
        match written(&text[len..], *byte) {
            Some(more) => len += more,
            None => return (at, len),
        }
    }
    (secret.len(), len)
}

/// How long this character is at the beginning of a JSON text, if it is there.
fn written(text: &[u8], byte: u8) -> Option<usize> {
    match text {
        [first, ..] if *first == byte => Some(1),
        [b'\\', b'u', code @ ..] => {
            let code = std::str::from_utf8(code.get(..4)?).ok()?;
            (u16::from_str_radix(code, 16) == Ok(byte.into())).then_some(6)
        }
        [b'\\', second, ..] if *second == byte => Some(2),
        _ => None,
    }
}

fn date(headers: &header::HeaderMap) -> Option<DateTime<Utc>> {
    response::date(headers.get(header::DATE)?.to_str().ok()?)
}

/// An error with its causes, without the URL.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    #[test]
    fn a_secret_that_is_repeated_is_blotted_out() {
        let mut text = br#"{"responseMessage":"bad signature abc+/=, abc+/=!"}"#.to_vec();
        blot_out(&mut text, "abc+/=");
        assert_eq!(text, br#"{"responseMessage":"bad signature ******, ******!"}"#);
        blot_out(&mut text[..2], "longer than the text");
        for (repeated, left) in [
            (r"abcdefgh+/ijklmn==", "******************"),
            (r"abcdefgh\u002b\/ijklmn\u003D=", "*****************************"),
            (r"abcdefgh+/ijklmn", "****************"),
            (r"abcdefgh+/ijklm", "abcdefgh+/ijklm"),
            (r"abcabcdefgh+/ijklmn==", "abc******************"),
            (r"aabcdefgh+/ijklmn==", "a******************"),
            (r"abcdefgh+\", r"abcdefgh+\"),
            (r"abcdefgh+\u0", r"abcdefgh+\u0"),
        ] {
            let mut text = repeated.as_bytes().to_vec();
            blot_out(&mut text, "abcdefgh+/ijklmn==");
            assert_eq!(String::from_utf8(text).unwrap(), left, "{repeated}");
        }
    }

    #[tokio::test]
    async fn without_the_ticket_no_byte_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = Client::new(&Options::default()).unwrap();
        for (head, expired) in [(0, false), (MAX_HEAD, false), (0, true), (MAX_HEAD, true)] {
            let limit = expired.then(|| Utc::now() - chrono::TimeDelta::seconds(1));
            let ticket = Ticket::until(limit);
            let body = Body::new("body".into(), ticket.clone());
            if !expired {
                assert!(ticket.take());
                assert!(!ticket.take(), "there is one");
            }
            let call = client.http.post(&url).header("x", "x".repeat(head)).body(reqwest::Body::wrap(body));
            let server = async {
                let mut bytes = Vec::new();
                listener.accept().await.unwrap().0.read_to_end(&mut bytes).await.unwrap();
                bytes
            };
            let (result, bytes) = tokio::join!(call.send(), server);
            let why = if expired { "its time has passed" } else { "the call has failed already" };
            assert!(chain_of(&result.unwrap_err()).contains(why));
            assert_eq!((bytes.as_slice(), ticket.take()), (&b""[..], expired), "an expired one is left to the call");
        }
    }
}
