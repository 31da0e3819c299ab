//! A SNAP provider to try things with.
//!
//! It speaks every dialect at once: an account's calls come under `/<account>`, and the account's own profile says which
//! paths, headers, signature, token and fields are right. What is wrong is refused as the real ones refuse it; what is
//! right changes the state of a transaction, unless a fault is in the way. `/_sandbox` shows what reached it, as JSON.
//!
//! Reading order: [`check`] (is this call right?), [`ledger`] (what became of each transaction), [`faults`] (what can go
//! wrong), [`desk`] (tokens and ids of an account), `call` (one call from check to answer), [`answer`] (answers and how they break), [`control`] (`/_sandbox`).

mod answer;
mod call;
mod check;
mod control;
mod desk;
mod faults;
mod ledger;

use crate::snap::{Operation, request::Partner};
use answer::{Answer, Delivery};
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, Response},
};
use chrono::Utc;
use desk::Desk;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ledger::Ledger;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Future, pending},
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use faults::{Fault, Faults, FaultsError};

/// No call is longer, and no list of transactions either.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// How long a request's body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long calls may go on after the stop.
const GRACE: Duration = Duration::from_secs(1);
/// When an accepted (202) cancel takes effect.
const ACCEPTED_DELAY: Duration = Duration::from_secs(2);

/// How the sandbox behaves.
#[derive(Debug, Clone)]
pub struct Options {
    pub faults: Faults,
    /// The same seed gives the same faults to the same order of calls.
    pub seed: u64,
    pub unknown: Unknown,
    pub canceled_again: CanceledAgain,
    /// How long every answer waits.
    pub latency: Duration,
    /// How long a hang lasts.
    pub hang: Duration,
    pub token_lifetime: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            faults: Faults::default(),
            seed: 0,
            unknown: Unknown::default(),
            canceled_again: CanceledAgain::default(),
            latency: Duration::ZERO,
            hang: Duration::from_secs(60),
            token_lifetime: Duration::from_secs(900),
        }
    }
}

/// What a reference that nobody has seen stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// An unpaid QR.
    #[default]
    Pending,
    NotFound,
}

/// What the cancel of a QR that is cancelled already is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CanceledAgain {
    /// 4047700, which says that the transaction is in another state.
    #[default]
    InvalidStatus,
    /// 4037715, a refusal that says nothing of the state; Midtrans' cancel of GoPay answers so.
    NotPermitted,
}

impl CanceledAgain {
    /// The response code without its service.
    fn case(self) -> &'static str {
        match self {
            Self::InvalidStatus => "40400",
            Self::NotPermitted => "40315",
        }
    }
}

/// The provider: who may call, and the world that calls change.
struct Sandbox {
    accounts: BTreeMap<String, Arc<Partner>>,
    options: Options,
    world: Mutex<World>,
}

/// Everything that changes, under one lock: a call is decided in one go.
struct World {
    random: fastrand::Rng,
    faults: Faults,
    desks: BTreeMap<String, Desk>,
    ledger: Ledger,
}

impl World {
    fn desk(&mut self, account: &str) -> &mut Desk {
        self.desks.get_mut(account).expect("every account has a desk from the start")
    }
}

impl Sandbox {
    fn new(partners: Vec<(String, Arc<Partner>)>, options: Options) -> io::Result<Self> {
        let mut accounts = BTreeMap::new();
        for (name, partner) in partners {
            let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("account {name}: {why}")));
            if let Err(why) = check::speakable(&partner) {
                return refuse(why);
            }
            if accounts.contains_key(&name) {
                return refuse("its name is given twice".into());
            }
            accounts.insert(name, partner);
        }
        let world = World {
            random: fastrand::Rng::with_seed(options.seed),
            faults: options.faults.clone(),
            desks: accounts.keys().map(|name| (name.clone(), Desk::default())).collect(),
            ledger: Ledger::default(),
        };
        Ok(Self { accounts, options, world: Mutex::new(world) })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose call a path is, and what it asks.
    fn route(&self, path: &str) -> Option<(&str, &Partner, Operation)> {
        let account = path.strip_prefix('/')?.split('/').next()?;
        let (name, partner) = self.accounts.get_key_value(account)?;
        let rest = &path[account.len() + 1..];
        let token = partner.profile.token.as_ref().map(|call| call.path.as_str());
        let operation = if rest == partner.cancel.path {
            Operation::Cancel
        } else if partner.query.as_ref().is_some_and(|route| route.path == rest) {
            Operation::Query
        } else if token == Some(rest) {
            Operation::Token
        } else {
            return None;
        };
        Some((name, partner, operation))
    }
}

/// Serves until `stop`; calls that still run then have a second to end.
///
/// # Errors
/// When an account cannot be spoken to: its profile or keys lack what the checks need.
pub async fn serve(
    listener: TcpListener,
    partners: Vec<(String, Arc<Partner>)>,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let sandbox = Arc::new(Sandbox::new(partners, options)?);
    let stopping = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, sandbox.clone(), stopping.clone()))),
                Err(error) => {
                    // Out of file descriptors, for example: it passes when connections close.
                    tracing::warn!(%error, "the sandbox could not accept a connection");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stopping.cancel();
    let drained = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        connections.shutdown().await;
    }
    Ok(())
}

/// One connection, whose socket stays in reach so that it can be reset.
async fn connection(stream: TcpStream, sandbox: Arc<Sandbox>, stopping: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let reset = Arc::new(Notify::new());
    let service = service_fn(|request| handle(sandbox.clone(), request, reset.clone()));
    let mut http = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let mut told_to_stop = false;
    loop {
        tokio::select! {
            ended = &mut http => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = reset.notified() => {
                let stream = http.into_parts().io.into_inner();
                if let Err(error) = stream.set_zero_linger() {
                    tracing::warn!(%error, "the connection closes instead of being reset");
                }
                return;
            }
            () = stopping.cancelled(), if !told_to_stop => {
                told_to_stop = true;
                std::pin::Pin::new(&mut http).graceful_shutdown();
            }
        }
    }
}

async fn handle(
    sandbox: Arc<Sandbox>,
    request: Request<Incoming>,
    reset: Arc<Notify>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match timeout(BODY_TIMEOUT, to_bytes(Body::new(body), MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Ok(Answer::error(413, "the request is too long, or broke off").into_response()),
        Err(_) => return Ok(Answer::error(408, "the request did not come to its end").into_response()),
    };
    let path = head.uri.path();
    if path == "/_sandbox" || path.starts_with("/_sandbox/") {
        return Ok(control::answer(&sandbox, &head.method, path, head.uri.query(), &body).into_response());
    }
    let Some((account, partner, operation)) = sandbox.route(path) else {
        return Ok(Answer::error(404, "no account's call has this path").into_response());
    };
    if head.method != Method::POST {
        return Ok(Answer::snap(operation, "40500").into_response());
    }
    let call = call::Call { account, partner, operation, headers: &head.headers, body: &body };
    // Decided at once: a client that goes away while it waits has been heard all the same.
    let decided = sandbox.decide(call, Utc::now());
    if let Some(transaction) = decided.cancel_later {
        let sandbox = sandbox.clone();
        tokio::spawn(async move {
            sleep(ACCEPTED_DELAY).await;
            sandbox.cancel_accepted(transaction, Utc::now());
        });
    }
    if !sandbox.options.latency.is_zero() {
        sleep(sandbox.options.latency).await;
    }
    Ok(match decided.delivery {
        Delivery::Whole(answer) => answer.into_response(),
        Delivery::Dripping(answer) => answer.dripping(),
        Delivery::Truncated(answer) => answer.truncated(),
        Delivery::Late(answer) => {
            sleep(sandbox.options.hang).await;
            answer.into_response()
        }
        Delivery::Reset => {
            reset.notify_one();
            pending().await
        }
    })
}
