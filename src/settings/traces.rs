//! Where traces go: the section `[traces]`, and where it is silent the variables that OpenTelemetry has for that.
//!
//! What stands in the settings and is no good is a mistake. The variables are set by platforms for all that runs there: what is no
//! good in them is told, there are no traces, and commands go on.

use super::{
    Traces,
    mistakes::shown,
    raw::{RawTraces, SecretSource},
    reader::Reader,
};
use axum::http::{HeaderName, HeaderValue, Uri};
use secrecy::{ExposeSecret, SecretString};
use std::net::IpAddr;

const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// The same for traces, logs and metrics; traces have their path under it.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// Where a value comes from that does not stand in the settings.
type Variable = Option<&'static str>;

impl Reader<'_> {
    pub fn traces(&mut self, raw: &RawTraces) -> Option<Traces> {
        if !(0.0..=1.0).contains(&raw.sample_ratio) {
            let reason = format!("must be 0.0 to 1.0, the share of traces to record; found {}", raw.sample_ratio);
            self.problem("traces.sample_ratio", reason);
        }
        if raw.service_name.as_deref() == Some("") {
            self.problem("traces.service_name", "is empty; give it a value, or remove it");
        }
        let endpoint = self.endpoint(raw);
        let (headers, of_headers) = match (&raw.headers, &endpoint) {
            (None, None) => (vec![], None),
            (headers, _) => self.headers(headers.as_ref()),
        };
        let (endpoint, variable) = endpoint?;
        let uri = self.collector(&endpoint, variable)?;
        if uri.scheme_str() == Some("http") && !headers.is_empty() && !is_loopback(&uri) {
            let reason = "must be https: traces.headers is a secret, and would be sent for all to read";
            self.no_good(variable.or(of_headers), "traces.endpoint", reason);
        }
        let resource = self.standard(RESOURCE).map(|text| pairs(&text)).unwrap_or_default();
        let named = resource.iter().find(|(name, _)| name == "service.name").map(|(_, value)| value.clone());
        let service_name = raw.service_name.clone().or_else(|| self.standard(SERVICE_NAME)).or(named);
        self.no_traces.is_empty().then(|| Traces {
            endpoint,
            headers,
            sample_ratio: raw.sample_ratio,
            service_name: service_name.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned()),
            resource,
        })
    }

    /// The collector's address, and the variable that it comes from if not from the settings. An empty one in the settings is none,
    /// whatever the environment says.
    fn endpoint(&self, raw: &RawTraces) -> Option<(String, Variable)> {
        if let Some(endpoint) = &raw.endpoint {
            return Some((endpoint.clone(), None)).filter(|(endpoint, _)| !endpoint.is_empty());
        }
        let own = self.standard(TRACES_ENDPOINT).map(|endpoint| (endpoint, Some(TRACES_ENDPOINT)));
        own.or_else(|| {
            let common = self.standard(ENDPOINT)?;
            Some((format!("{}/v1/traces", common.trim_end_matches('/')), Some(ENDPOINT)))
        })
    }

    fn collector(&mut self, endpoint: &str, variable: Variable) -> Option<Uri> {
        let uri = endpoint.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        let Some(uri) = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) else {
            let reason = "must be the address of a collector of OTLP over HTTP, like http://127.0.0.1:4318/v1/traces";
            self.no_good(variable, "traces.endpoint", format!("{reason}; found {}", shown(endpoint)));
            return None;
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            self.no_good(variable, "traces.endpoint", "must not hold a user or password; give headers");
            return None;
        }
        if uri.path() == "/" {
            let reason = "has no path; collectors take traces at /v1/traces";
            self.no_good(variable, "traces.endpoint", reason);
        }
        Some(uri)
    }

    /// The headers, and the variable that they come from if not from the settings.
    fn headers(&mut self, source: Option<&SecretSource>) -> (Vec<(String, SecretString)>, Variable) {
        let text = match source {
            Some(source) => self.secret("traces.headers", source).map(|text| (text.expose_secret().to_owned(), None)),
            None => HEADERS.into_iter().find_map(|name| Some((self.standard(name)?, Some(name)))),
        };
        let Some((text, variable)) = text else { return (vec![], None) };
        let pairs = pairs(&text);
        let are_good = |(name, value): &(String, String)| {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        };
        if pairs.is_empty() || !pairs.iter().all(are_good) {
            let place = source.map(|source| source.name() + " ").unwrap_or_default();
            self.no_good(variable, "traces.headers", format!("{place}must hold headers, like name=value,other=value"));
        }
        (pairs.into_iter().map(|(name, value)| (name, value.into())).collect(), variable)
    }

    fn no_good(&mut self, variable: Variable, key: &str, reason: impl Into<String>) {
        match variable {
            Some(variable) => self.no_traces.push(format!("{variable} {}", reason.into())),
            None => self.problem(key, reason),
        }
    }

    fn standard(&self, name: &str) -> Option<String> {
        self.environment.get(name).filter(|value| !value.is_empty()).cloned()
    }
}

/// `name=value,other=value`, values percent-encoded, as OpenTelemetry writes headers and attributes into a variable.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.trim().to_owned(), decoded(value.trim()))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| hex::decode(digits).ok()) {
            Some(byte) => {
                bytes.extend(byte);
                bytes.extend(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
