//! What operators see over HTTP: `/metrics`, `/livez`, `/readyz`, `/status`.

use crate::{
    account::{RealWorld, gate::Gate},
    breaker::State,
    metrics::UNKNOWN,
    pipeline::World,
    worker::Worker,
};
use axum::{
    Json, Router, extract,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, runtime::Handle, sync::Semaphore};
use tracing::debug;

/// More at the same time have to wait: these pages must not cost a payment worker its descriptors.
const CONNECTIONS: usize = 64;
/// No connection is kept for longer; Prometheus makes a new one.
const CONNECTION_FOR: Duration = Duration::from_secs(60);

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, worker: Arc<Worker>) {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(worker);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "a connection to the operators' pages was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(pages.clone());
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            let connection = server.serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_FOR, connection).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => debug!(%error, "a connection to the operators' pages broke off"),
            }
            drop(permit);
        });
    }
}

type Work = extract::State<Arc<Worker>>;

async fn metrics(extract::State(worker): Work) -> impl IntoResponse {
    for account in &worker.accounts {
        let (view, seen) = (account.gate.view(), account.seen());
        account.metrics.stands(&view, account.gate.in_flight(), seen.clock_skew(RealWorld.now()));
        worker.metrics.commands(&account.settings.name).stands(view.suspect);
    }
    let strays = [&worker.strays, &worker.expired_strays].map(|gate| gate.view());
    worker.metrics.commands(UNKNOWN).stands(strays.iter().any(|view| view.suspect));
    worker.metrics.broker.stands(&worker.broker);
    worker.metrics.process.stands(&Handle::current().metrics());
    match worker.metrics.text() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// Ready: the broker is there, and every account's commands are consumed, or on purpose are not.
async fn ready(extract::State(worker): Work) -> (StatusCode, String) {
    let lacks = worker.lacks();
    match lacks.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", lacks.join("; "))),
    }
}

async fn status(extract::State(worker): Work) -> Json<Value> {
    let accounts = worker.accounts.iter().map(|account| {
        let (gate, seen, settings) = (&account.gate, account.seen(), &account.settings);
        let view = gate.view();
        let breaker = match view.breaker {
            State::Closed => json!({ "state": "closed" }),
            State::Trying { why } => json!({ "state": "trying", "because": why.name() }),
            State::Resting { why, .. } => {
                let left = view.rest_left.unwrap_or_default().as_millis() as u64;
                json!({ "state": "resting", "because": why.name(), "triesInMs": left })
            }
        };
        let mut status = json!({
            "account": settings.name,
            "provider": settings.partner.profile.name,
            "state": if view.paused { "paused" } else { "active" },
            "breaker": breaker,
            "consuming": view.consuming,
            "suspect": view.suspect,
            "inFlight": gate.in_flight(),
            "maxInFlight": gate.limit,
        });
        if let Some((at, what)) = &seen.last_error {
            status["lastError"] = json!({ "at": at, "what": what });
        }
        if let Some(seconds) = seen.clock_skew(RealWorld.now()) {
            status["clockSkewSeconds"] = json!((seconds * 10.0).round() / 10.0);
        }
        status
    });
    let lacks = worker.lacks();
    let gate = |gate: &Gate| {
        let view = gate.view();
        json!({ "consuming": view.consuming, "suspect": view.suspect, "inFlight": gate.in_flight() })
    };
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": lacks.is_empty(),
        "lacks": lacks,
        "broker": { "connected": worker.broker.is_connected(), "blocked": worker.broker.is_blocked() },
        "accounts": accounts.collect::<Vec<_>>(),
        "strays": gate(&worker.strays),
        "expiredStrays": gate(&worker.expired_strays),
    }))
}
