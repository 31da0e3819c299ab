//! A provider that does as it is told, and writes down when each call began and ended.
#![allow(dead_code, reason = "each of its users uses a part")]

use axum::{
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// How calls are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As they should be, this late. A cancel takes effect at once.
    Fine(Duration),
    /// Not within any time limit, and nothing is done.
    Silent,
    /// Cancels are answered so, queries as they should be.
    SilentToCancels,
    /// 503, this late.
    Failing(Duration),
    /// 401 with the code of a wrong signature.
    Unauthorized,
    /// Cancels are refused for good, queries answered as they should be.
    Refusing,
    /// Cancels are answered as they should be, and queries know no transaction.
    Forgetful,
}

#[derive(Debug, Clone)]
pub struct Call {
    /// `cancel`, `query` or `token`.
    pub operation: &'static str,
    pub reference: String,
    pub at: Instant,
}

pub struct Book {
    pub mood: Mood,
    pub calls: Vec<Call>,
    canceled: BTreeSet<String>,
    running: BTreeMap<String, usize>,
    /// The most calls that ran at the same time for one transaction, and altogether.
    pub most_for_one: usize,
    pub most: usize,
}

impl Book {
    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.running.values().sum()
    }
}

/// One provider on a port of its own, which it keeps over an outage.
pub struct Provider {
    pub address: SocketAddr,
    book: Arc<Mutex<Book>>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Provider {
    pub async fn start() -> Self {
        let book = Book {
            mood: Mood::Fine(Duration::ZERO),
            calls: Vec::new(),
            canceled: BTreeSet::new(),
            running: BTreeMap::new(),
            most_for_one: 0,
            most: 0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            address: listener.local_addr().unwrap(),
            book: Arc::new(Mutex::new(book)),
            serving: Mutex::new(None),
        };
        provider.serve(listener);
        provider
    }

    fn serve(&self, listener: TcpListener) {
        let pages = axum::Router::new().fallback(answer).with_state(self.book.clone());
        let task = tokio::spawn(async move { axum::serve(listener, pages).await.unwrap() });
        *self.serving.lock().unwrap() = Some(task);
    }

    /// Connections are refused from now on.
    pub async fn go_down(&self) {
        let task = self.serving.lock().unwrap().take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    pub async fn come_up(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub fn set(&self, mood: Mood) {
        self.book().mood = mood;
    }

    pub fn count(&self, operation: &str) -> usize {
        self.book().calls.iter().filter(|call| call.operation == operation).count()
    }
}

/// A call that runs. Its end is noted even when its caller has gone.
struct Running {
    book: Arc<Mutex<Book>>,
    reference: String,
    mood: Mood,
}

impl Running {
    fn begin(shared: &Arc<Mutex<Book>>, operation: &'static str, reference: &str, body: &Value) -> Self {
        let mut book = shared.lock().unwrap();
        book.calls.push(Call { operation, reference: reference.to_owned(), at: Instant::now() });
        if operation == "cancel"
            && matches!(book.mood, Mood::Fine(_) | Mood::Forgetful)
            && body["merchantId"] != "WRONG"
        {
            book.canceled.insert(reference.to_owned());
        }
        let of_this = book.running.entry(reference.to_owned()).and_modify(|running| *running += 1).or_insert(1);
        let of_this = *of_this;
        book.most_for_one = book.most_for_one.max(of_this);
        book.most = book.running().max(book.most);
        Self { book: shared.clone(), reference: reference.to_owned(), mood: book.mood }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.book.lock().unwrap().running.get_mut(&self.reference).unwrap() -= 1;
    }
}

async fn answer(State(book): State<Arc<Mutex<Book>>>, uri: Uri, body: Bytes) -> Response {
    let operation = match uri.path() {
        path if path.ends_with("cancel") => "cancel",
        path if path.ends_with("token") => "token",
        _ => "query",
    };
    let body: Value = serde_json::from_slice(&body).unwrap();
    let reference = body["originalReferenceNo"].as_str().unwrap_or_default().to_owned();
    let running = Running::begin(&book, operation, &reference, &body);
    let silent = Duration::from_secs(3600);
    let (status, answer) = match (running.mood, operation) {
        (Mood::Failing(late), _) => {
            tokio::time::sleep(late).await;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        (Mood::SilentToCancels, "query" | "token") => fine(&book, operation, &reference, &body),
        (Mood::Silent | Mood::SilentToCancels, _) => {
            tokio::time::sleep(silent).await;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        (Mood::Unauthorized, "token") => {
            (401, json!({ "responseCode": "4017300", "responseMessage": "Unauthorized. [Signature]" }))
        }
        (Mood::Unauthorized, "query") => {
            (401, json!({ "responseCode": "4015100", "responseMessage": "Unauthorized. [Signature]" }))
        }
        (Mood::Unauthorized, _) => {
            (401, json!({ "responseCode": "4017700", "responseMessage": "Unauthorized. [Signature]" }))
        }
        (Mood::Refusing, "cancel") => {
            (405, json!({ "responseCode": "4057700", "responseMessage": "Requested Function Is Not Supported" }))
        }
        (Mood::Forgetful, "query") => {
            (404, json!({ "responseCode": "4045101", "responseMessage": "Transaction Not Found" }))
        }
        (Mood::Refusing | Mood::Forgetful, _) => fine(&book, operation, &reference, &body),
        (Mood::Fine(late), _) => {
            tokio::time::sleep(late).await;
            fine(&book, operation, &reference, &body)
        }
    };
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
}

fn fine(book: &Mutex<Book>, operation: &str, reference: &str, body: &Value) -> (u16, Value) {
    match operation {
        "token" => (200, json!({ "responseCode": "2007300", "accessToken": "the-access-token", "expiresIn": "900" })),
        "cancel" if body["merchantId"] == "WRONG" => {
            (404, json!({ "responseCode": "4047708", "responseMessage": "Invalid Merchant" }))
        }
        "cancel" => (
            200,
            json!({ "responseCode": "2007700", "responseMessage": "Successful", "originalReferenceNo": reference }),
        ),
        _ => {
            let status = if book.lock().unwrap().canceled.contains(reference) { "05" } else { "03" };
            let answer = json!({ "responseCode": "2005100", "responseMessage": "Successful", "originalReferenceNo": reference,
                "latestTransactionStatus": status });
            (200, answer)
        }
    }
}
