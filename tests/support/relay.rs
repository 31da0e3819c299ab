//! A relay between the worker and its broker or provider, which does to the connections what networks do.

use super::frames::{Frames, Redeliveries, internal_error, notes_the_end, renumber};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};

/// So many may wait to be accepted; then a call for a connection gets no answer.
const WAITING_TO_BE_ACCEPTED: u32 = 64;
/// What TCP sends at once.
const SEGMENT: usize = 1_448;
/// The first wait for a lost segment; it doubles with each further loss of it.
const RETRANSMITTED_AFTER: Duration = Duration::from_millis(200);

/// A worker that is told that its connection ends does not need so long to answer.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the worker.
    Out,
    /// To the worker.
    In,
}

/// Whether a frame is the one to be held back, with all that follows it on its connection.
pub type IsHeld = Arc<dyn Fn(Direction, &[u8]) -> bool + Send + Sync>;

/// What becomes of connections, the present ones too.
#[derive(Clone)]
pub enum Way {
    Pass,
    /// Every connection is reset, a new one as soon as it is made.
    Cut,
    /// Nothing passes, and nobody is told.
    BlackHole,
    /// The worker's bytes pass, the answers do not.
    HalfOpen,
    /// Who wants to connect gets no answer; the connections that there are are reset.
    Unanswered,
    /// Bytes pass this late, in each direction.
    Delay(Duration),
    /// What the loss of this share of all segments does to a stream that is this late: it stalls until the segment has come.
    Lossy(f64, Duration),
    /// A connection is reset when so many more bytes have passed it, of which each has a number of its own within these.
    ResetAfter(usize, usize),
    /// So many bytes pass a second, in each direction.
    Drip(usize),
    /// A connection that has been used is reset, instead, when the next bytes come from the worker; every other time.
    ResetWhenUsedAgain,
    /// AMQP frames pass, until one is held; it goes on where another way is set.
    Hold(IsHeld),
    /// AMQP frames pass, until this one: then its connection ends. Where it was for the worker, the broker seems to say 541 in its place.
    End(IsHeld),
    /// The worker behind it writes this version of its headers for that one, and reads both.
    Renumber(i64, i64),
}

pub struct Relay {
    pub address: SocketAddr,
    way: watch::Sender<Way>,
    cuts: watch::Sender<usize>,
    held: watch::Receiver<usize>,
    connected: Arc<Mutex<Vec<Instant>>>,
    pub redeliveries: Redeliveries,
}

#[derive(Clone)]
struct Rules {
    way: watch::Receiver<Way>,
    cuts: watch::Receiver<usize>,
    held: Arc<watch::Sender<usize>>,
    used: Arc<AtomicUsize>,
    redeliveries: Redeliveries,
}

impl Relay {
    /// To a server that may come and go.
    pub async fn start(server: &str) -> Self {
        Self::to_one_of(&[server]).await
    }

    /// To servers in turn, as a load balancer does: a connection goes to the next one that takes it.
    pub async fn to_one_of(servers: &[&str]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(WAITING_TO_BE_ACCEPTED).unwrap();
        let address = listener.local_addr().unwrap();
        let ((way, ways), (cuts, cut), (hold, held)) =
            (watch::channel(Way::Pass), watch::channel(0), watch::channel(0));
        let (redeliveries, connected) = (Redeliveries::default(), Arc::<Mutex<Vec<Instant>>>::default());
        let (hold, used) = (Arc::new(hold), Arc::default());
        let rules = Rules { way: ways, cuts: cut, held: hold, used, redeliveries: redeliveries.clone() };
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        tokio::spawn(accept(listener, servers, rules, connected.clone()));
        Self { address, way, cuts, held, connected, redeliveries }
    }

    pub fn set(&self, way: Way) {
        let resets = matches!(way, Way::Cut | Way::Unanswered);
        self.way.send_replace(way);
        if resets {
            self.cut();
        }
    }

    /// Resets the connections that there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Holds frames back from now on.
    pub fn hold(&self, is_held: impl Fn(Direction, &[u8]) -> bool + Send + Sync + 'static) {
        self.set(Way::Hold(Arc::new(is_held)));
    }

    /// Ends connections at such frames from now on.
    pub fn end(&self, at: impl Fn(Direction, &[u8]) -> bool + Send + Sync + 'static) {
        self.set(Way::End(Arc::new(at)));
    }

    /// When somebody connected, of late.
    pub fn connected_since(&self, since: Instant) -> Vec<Instant> {
        self.connected.lock().unwrap().iter().copied().filter(|at| *at >= since).collect()
    }

    /// Waits until a frame is held, or nobody can connect.
    pub async fn until_held(&self, limit: Duration) {
        let mut held = self.held.clone();
        tokio::time::timeout(limit, held.wait_for(|held| *held > 0)).await.expect("a frame is held").unwrap();
    }
}

async fn accept(
    listener: TcpListener,
    mut servers: Vec<SocketAddr>,
    rules: Rules,
    connected: Arc<Mutex<Vec<Instant>>>,
) {
    let mut ways = rules.way.clone();
    let address = listener.local_addr().unwrap();
    loop {
        let is_unanswered = matches!(*ways.borrow_and_update(), Way::Unanswered);
        if is_unanswered {
            // Nobody accepts, and there is no more room to wait for that.
            let mut waiting = Vec::new();
            let soon = Duration::from_millis(200);
            while let Ok(Ok(stream)) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
                waiting.push(stream);
            }
            rules.held.send_modify(|held| *held += 1);
            if ways.wait_for(|way| !matches!(way, Way::Unanswered)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((worker, _)) = accepted else { return };
                connected.lock().unwrap().push(Instant::now());
                tokio::spawn(connection(worker, servers.clone(), rules.clone()));
                servers.rotate_left(1);
            }
            changed = ways.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(worker: TcpStream, servers: Vec<SocketAddr>, mut rules: Rules) {
    rules.cuts.mark_unchanged();
    let is_cut = matches!(*rules.way.borrow(), Way::Cut);
    let server = if is_cut { None } else { TcpStream::connect(&servers[..]).await.ok() };
    let Some(server) = server else {
        worker.set_zero_linger().unwrap();
        return;
    };
    for stream in [&worker, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let ((from_worker, to_worker), (from_server, to_server)) = (worker.into_split(), server.into_split());
    let passed = Arc::new(Passed { bytes: AtomicUsize::new(0), share: fastrand::f64() });
    // The first that is to be reset ends both at once; else each is closed in good order.
    drop(tokio::try_join!(
        pump(from_worker, to_server, Direction::Out, rules.clone(), passed.clone()),
        pump(from_server, to_worker, Direction::In, rules, passed),
    ));
}

/// What has passed a connection since it has a limit.
struct Passed {
    bytes: AtomicUsize,
    /// Where between the least and the most its limit is.
    share: f64,
}

/// The connection is to be reset.
struct Reset;

/// Forwards one direction until it ends.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut rules: Rules,
    passed: Arc<Passed>,
) -> Result<(), Reset> {
    let (sender, chunks) = mpsc::unbounded_channel();
    let mut cuts = rules.cuts.clone();
    let result = {
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                if sender.send((Instant::now(), buffer[..read].to_vec())).is_err() {
                    break;
                }
            }
            drop(sender);
            std::future::pending().await
        };
        tokio::select! {
            () = reading => Ok(()),
            ended = write(chunks, &mut to, direction, &mut rules, &passed) => ended,
            _ = cuts.changed() => Err(Reset),
        }
    };
    if result.is_err() {
        for stream in [from.as_ref(), to.as_ref()] {
            stream.set_zero_linger().unwrap();
        }
    }
    result
}

async fn write(
    mut chunks: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    to: &mut OwnedWriteHalf,
    direction: Direction,
    rules: &mut Rules,
    passed: &Passed,
) -> Result<(), Reset> {
    let mut frames = Frames::new(direction, rules.redeliveries.clone());
    let mut kept = Vec::new();
    while let Some((came, mut bytes)) = chunks.recv().await {
        let held_up = |way: &Way| match way {
            Way::BlackHole => true,
            Way::HalfOpen => direction == Direction::In,
            _ => false,
        };
        let way = match rules.way.wait_for(|way| !held_up(way)).await {
            Ok(way) => way.clone(),
            Err(_) => return Err(Reset),
        };
        let mut pass = bytes.len();
        match &way {
            Way::Delay(late) => tokio::time::sleep_until((came + *late).into()).await,
            Way::Lossy(share, late) => {
                tokio::time::sleep_until((came + *late).into()).await;
                tokio::time::sleep(stall(*share, bytes.len())).await;
            }
            Way::ResetAfter(least, most) => {
                let before = passed.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
                let limit = least + ((most - least) as f64 * passed.share) as usize;
                pass = pass.min(limit.saturating_sub(before));
            }
            Way::ResetWhenUsedAgain if direction == Direction::Out => {
                let is_used = passed.bytes.fetch_add(1, Ordering::Relaxed) > 0;
                if is_used && rules.used.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                    return Err(Reset);
                }
            }
            _ => {}
        }
        // Frames are followed from the first byte on, so that one can be held whenever that is asked for.
        let is_held = |frame: &[u8]| match &way {
            Way::Hold(is_held) => is_held(direction, frame),
            Way::End(ends) => ends(direction, frame) || notes_the_end(direction, frame),
            _ => false,
        };
        let held_at = frames.follow(&bytes, is_held);
        pass = pass.min(held_at.unwrap_or(pass));
        if let Way::Renumber(ours, theirs) = way {
            // Whole frames only, as a header could lie across two reads.
            kept.append(&mut bytes);
            bytes = kept.drain(..kept.len() - frames.incomplete()).collect();
            renumber(&mut bytes, direction, ours, theirs);
            pass = bytes.len();
        }
        let at_once = match way {
            Way::Drip(rate) => (rate / 20).max(1),
            _ => bytes.len().max(1),
        };
        for part in bytes[..pass].chunks(at_once) {
            if to.write_all(part).await.is_err() {
                return Ok(());
            }
            if matches!(way, Way::Drip(_)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if held_at.is_some() && matches!(way, Way::End(_)) {
            if direction == Direction::In {
                // As a broker does, it waits until the worker has taken note, which ends the other direction.
                to.write_all(&internal_error()).await.ok();
                tokio::time::sleep(NOTED_WITHIN).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Err(Reset);
        }
        if held_at.is_some() {
            rules.held.send_modify(|held| *held += 1);
            let released = rules.way.wait_for(|way| !matches!(way, Way::Hold(_))).await.is_ok();
            if !released || rules.cuts.has_changed().unwrap_or(true) {
                return Err(Reset);
            }
            frames.follow(&[], |_| false);
            if to.write_all(&bytes[pass..]).await.is_err() {
                return Ok(());
            }
        } else if pass < bytes.len() {
            // What has passed arrives before the reset overtakes it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Err(Reset);
        }
    }
    Ok(())
}

/// How long a stream of so many bytes stalls where this share of its segments is lost.
fn stall(share: f64, bytes: usize) -> Duration {
    let of_one = || {
        let losses = std::iter::repeat_with(fastrand::f64).take_while(|drawn| *drawn < share).take(6).count();
        RETRANSMITTED_AFTER * ((1 << losses) - 1)
    };
    (0..bytes.div_ceil(SEGMENT)).map(|_| of_one()).sum()
}
