//! A relay between the worker and its broker or provider, which does to the connections what networks do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};

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
    /// Bytes pass this late, in each direction.
    Delay(Duration),
    /// A connection is reset when so many more bytes have passed it.
    ResetAfter(usize),
    /// So many bytes pass a second, in each direction.
    Drip(usize),
    /// A connection that has been used is reset, instead, when the next bytes come from the worker; every other time.
    ResetWhenUsedAgain,
    /// AMQP frames pass, until one is held.
    Hold(IsHeld),
}

pub struct Relay {
    pub address: SocketAddr,
    way: watch::Sender<Way>,
    cuts: watch::Sender<usize>,
    held: watch::Receiver<usize>,
}

#[derive(Clone)]
struct Rules {
    way: watch::Receiver<Way>,
    cuts: watch::Receiver<usize>,
    held: Arc<watch::Sender<usize>>,
    used: Arc<AtomicUsize>,
}

impl Relay {
    /// To a server that may come and go.
    pub async fn start(server: &str) -> Self {
        Self::to_one_of(&[server]).await
    }

    /// To servers in turn, as a load balancer does: a connection goes to the next one that takes it.
    pub async fn to_one_of(servers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ((way, ways), (cuts, cut), (hold, held)) =
            (watch::channel(Way::Pass), watch::channel(0), watch::channel(0));
        let rules = Rules { way: ways, cuts: cut, held: Arc::new(hold), used: Arc::default() };
        let mut servers: Vec<SocketAddr> = servers.iter().map(|server| server.parse().unwrap()).collect();
        tokio::spawn(async move {
            while let Ok((worker, _)) = listener.accept().await {
                tokio::spawn(connection(worker, servers.clone(), rules.clone()));
                servers.rotate_left(1);
            }
        });
        Self { address, way, cuts, held }
    }

    pub fn set(&self, way: Way) {
        if matches!(way, Way::Cut) {
            self.cut();
        }
        self.way.send_replace(way);
    }

    /// Resets the connections that there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Holds frames back from now on.
    pub fn hold(&self, is_held: impl Fn(Direction, &[u8]) -> bool + Send + Sync + 'static) {
        self.set(Way::Hold(Arc::new(is_held)));
    }

    /// Waits until a frame is held.
    pub async fn until_held(&self, limit: Duration) {
        let mut held = self.held.clone();
        tokio::time::timeout(limit, held.wait_for(|held| *held > 0)).await.expect("a frame is held").unwrap();
    }
}

/// A frame that publishes to this exchange.
pub fn publishes_to(exchange: String) -> impl Fn(Direction, &[u8]) -> bool {
    move |direction, frame| {
        direction == Direction::Out
            && frame.get(7..11) == Some(&[0, 60, 0, 40])
            && frame.get(13).is_some_and(|length| frame.get(14..14 + usize::from(*length)) == Some(exchange.as_bytes()))
    }
}

/// A frame that acknowledges: the worker a command, or the broker a publish.
pub fn acknowledges(from: Direction) -> impl Fn(Direction, &[u8]) -> bool {
    move |direction, frame| direction == from && frame.get(7..11) == Some(&[0, 60, 0, 80])
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
    let passed = Arc::new(AtomicUsize::new(0));
    // The first that is to be reset ends both at once; else each is closed in good order.
    drop(tokio::try_join!(
        pump(from_worker, to_server, Direction::Out, rules.clone(), passed.clone()),
        pump(from_server, to_worker, Direction::In, rules, passed),
    ));
}

/// The connection is to be reset.
struct Reset;

/// Forwards one direction until it ends.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut rules: Rules,
    passed: Arc<AtomicUsize>,
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
    passed: &AtomicUsize,
) -> Result<(), Reset> {
    let mut frames = Vec::new();
    while let Some((came, bytes)) = chunks.recv().await {
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
            Way::ResetAfter(limit) => {
                let before = passed.fetch_add(bytes.len(), Ordering::Relaxed);
                pass = pass.min(limit.saturating_sub(before));
            }
            Way::ResetWhenUsedAgain if direction == Direction::Out => {
                let is_used = passed.fetch_add(1, Ordering::Relaxed) > 0;
                if is_used && rules.used.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                    return Err(Reset);
                }
            }
            _ => {}
        }
        // Frames are followed from the first byte on, so that one can be held whenever that is asked for.
        let is_held = |frame: &[u8]| matches!(&way, Way::Hold(is_held) if is_held(direction, frame));
        let held_at = follow(&mut frames, &bytes, is_held);
        pass = pass.min(held_at.unwrap_or(pass));
        let at_once = match way {
            Way::Drip(rate) => (rate / 20).max(1),
            _ => bytes.len(),
        };
        for part in bytes[..pass].chunks(at_once) {
            if to.write_all(part).await.is_err() {
                return Ok(());
            }
            if matches!(way, Way::Drip(_)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if held_at.is_some() {
            rules.held.send_modify(|held| *held += 1);
            return std::future::pending().await;
        }
        if pass < bytes.len() {
            // What has passed arrives before the reset overtakes it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Err(Reset);
        }
    }
    Ok(())
}

/// Follows the frames that these bytes complete: how many of the bytes come before one that is to be held.
fn follow(rest: &mut Vec<u8>, bytes: &[u8], is_held: impl Fn(&[u8]) -> bool) -> Option<usize> {
    let before = rest.len();
    rest.extend_from_slice(bytes);
    let mut at = if rest.starts_with(b"AMQP") { 8.min(rest.len()) } else { 0 };
    while let Some(head) = rest.get(at..at + 7) {
        let length = 8 + u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let Some(frame) = rest.get(at..at + length) else { break };
        if is_held(frame) {
            return Some(at.saturating_sub(before));
        }
        at += length;
    }
    rest.drain(..at);
    // No AMQP frame is so long: this is another protocol.
    if rest.len() > 1 << 20 {
        rest.clear();
    }
    None
}
