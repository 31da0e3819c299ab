//! Answers as SNAP writes them, and the ways in which they break on the wire.

use crate::snap::{
    Code, Operation,
    profile::{Fraction, Offset, TimestampForm},
    sign,
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Response, StatusCode, header},
};
use chrono::{DateTime, Utc};
use futures_util::stream;
use serde_json::{Map, Value, json};
use std::{io, time::Duration};
use tokio::time::sleep;

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
/// Time between two bytes of a dripping answer.
const DRIP: Duration = Duration::from_millis(50);
/// The part before the break gets on the wire in this time.
const BREAK: Duration = Duration::from_millis(20);

/// What goes back to the caller.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    /// The response code in it, if it is SNAP's.
    pub code: Option<Code>,
    content_type: &'static str,
    body: Bytes,
}

/// How an answer goes back.
pub enum Delivery {
    Whole(Answer),
    Dripping(Answer),
    Truncated(Answer),
    /// After the time that a hang lasts.
    Late(Answer),
    /// Not at all: the connection is reset.
    Reset,
}

impl Delivery {
    /// The response code that a patient caller can read.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Whole(answer) | Self::Dripping(answer) => answer.code,
            Self::Truncated(_) | Self::Late(_) | Self::Reset => None,
        }
    }
}

/// The response code of a case: HTTP status and case, with the service between them.
pub fn code(operation: Operation, case: &str) -> Code {
    let (status, case) = case.split_at(3);
    Code::parse(&format!("{status}{}{case}", operation.service())).expect("a case has five digits")
}

/// A time as SNAP's answers write it.
pub fn time(at: DateTime<Utc>) -> String {
    sign::timestamp(at, TimestampForm { offset: Offset::Wib, fraction: Fraction::None })
}

impl Answer {
    /// A case with the standard's words for it.
    pub fn snap(operation: Operation, case: &str) -> Self {
        Self::with(operation, case, Map::new())
    }

    /// The same with further fields.
    pub fn with(operation: Operation, case: &str, fields: Map<String, Value>) -> Self {
        Self::saying(operation, case, words(case), fields)
    }

    /// A case in words of its own.
    pub fn saying(operation: Operation, case: &str, message: &str, fields: Map<String, Value>) -> Self {
        let code = code(operation, case);
        let mut body = Map::new();
        body.insert("responseCode".into(), code.as_str().into());
        body.insert("responseMessage".into(), message.into());
        body.extend(fields);
        Self { code: Some(code), ..Self::json(code.http_status(), &Value::Object(body)) }
    }

    /// JSON that is no answer of SNAP's.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("it has texts as keys");
        Self { status, code: None, content_type: JSON, body: body.into() }
    }

    /// What is wrong with a request that is no call.
    pub fn error(status: u16, why: &str) -> Self {
        Self::json(status, &json!({ "error": why }))
    }

    /// The page of a proxy that stands before the provider.
    pub fn html(status: u16) -> Self {
        let body = b"<!DOCTYPE html><html><head><title>Request Rejected</title></head><body>The requested URL was rejected.</body></html>";
        Self { status, code: None, content_type: HTML, body: Bytes::from_static(body) }
    }

    pub fn into_response(self) -> Response<Body> {
        let body = Body::from(self.body.clone());
        self.response(body)
    }

    /// The answer, one byte at a time.
    pub fn dripping(self) -> Response<Body> {
        let drops = stream::unfold(self.body.clone(), |mut rest| async move {
            if rest.is_empty() {
                return None;
            }
            sleep(DRIP).await;
            Some((Ok::<_, io::Error>(rest.split_to(1)), rest))
        });
        self.response(Body::from_stream(drops))
    }

    /// Half of the answer under the length of the whole; then the connection ends.
    pub fn truncated(self) -> Response<Body> {
        let half = self.body.slice(..self.body.len() / 2);
        let parts = stream::unfold(Some(half), |half| async move {
            let Some(half) = half else {
                sleep(BREAK).await;
                return Some((Err(io::ErrorKind::BrokenPipe.into()), None));
            };
            Some((Ok::<_, io::Error>(half), None))
        });
        self.response(Body::from_stream(parts))
    }

    fn response(self, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).expect("a status has three digits");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CONTENT_LENGTH, self.body.len().into());
        if self.status == 429 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.code.is_some() {
            let now = HeaderValue::from_str(&time(Utc::now())).expect("a time is ASCII");
            headers.insert("X-TIMESTAMP", now);
        }
        response
    }
}

/// The standard's words for a case.
fn words(case: &str) -> &'static str {
    match case {
        "20000" => "Successful",
        "20200" => "Request In Progress",
        "40000" => "Bad Request",
        "40101" => "Invalid Token (B2B)",
        "40300" => "Transaction Expired",
        "40315" => "Transaction Not Permitted",
        "40400" => "Invalid Transaction Status",
        "40401" => "Transaction Not Found",
        "40414" => "Paid Bill",
        "40500" => "Requested Function Is Not Supported",
        "40900" => "Conflict",
        "42900" => "Too Many Requests",
        "50000" => "General Error",
        "50400" => "Timeout",
        _ => "",
    }
}
