//! Lost packets: the kernel's own TCP over a network that loses some. The worker is in a network namespace whose only way out
//! is a VXLAN tunnel, and its packets pass this process, which keeps them for a while and drops some.

use super::*;
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::net::UdpSocket;

const TOPIC: &str = "network";
const SHARE: f64 = 0.01;
/// 300 ms there and back.
const LATE: Duration = Duration::from_millis(150);
/// The kernel would take a shortcut to any other address of this machine.
const BROADCAST: &str = "127.255.255.255:0";
/// In a packet of the tunnel, after the headers of VXLAN, Ethernet and IPv4.
const TCP_PORTS: std::ops::Range<usize> = 42..46;

/// What a line does, and has done.
#[derive(Default)]
struct Line {
    is_bad: AtomicBool,
    passed: AtomicUsize,
    lost: AtomicUsize,
}

/// A network namespace at the other end of a line.
struct Namespace {
    name: String,
    line: Arc<Line>,
}

impl Namespace {
    /// When the line is bad, what goes to or comes from these ports suffers.
    ///
    /// # Errors
    /// Where that cannot be made: it takes root, iproute2 and a kernel with VXLAN.
    async fn new(suffering: Vec<u16>) -> Result<Self, String> {
        let new = Self { name: format!("qris{:06x}", fastrand::u32(..1 << 24)), line: Arc::default() };
        let name = &new.name;
        clean_up_after_us(&["sh", "-c", &new.end()]);
        let mut sockets = Vec::new();
        for _ in 0..2 {
            sockets.push(UdpSocket::bind(BROADCAST).await.map_err(|e| e.to_string())?);
        }
        let ports: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        let free = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (here, there) = (free(), free());
        let (network, number) = (format!("198.18.{}", fastrand::u8(..)), fastrand::u32(1..1 << 24));
        let script = format!(
            "set -e
            ip netns add {name}
            for end in '{name}h {here} {}' '{name}w {there} {}'; do
              set -- $end
              ip link add $1 type vxlan id {number} dstport $2 local 127.0.0.1 nolearning
              bridge fdb append 00:00:00:00:00:00 dev $1 dst 127.255.255.255 port $3
            done
            ip link set {name}w netns {name}
            ip link set {name}h gso_max_segs 1 up
            ip addr add {network}.1/30 dev {name}h
            inside='ip netns exec {name}'
            $inside ip link set {name}w gso_max_segs 1 up
            $inside ip addr add {network}.2/30 dev {name}w
            $inside ip route add 127.0.0.0/8 via {network}.1 dev {name}w src {network}.2
            echo 1 >/proc/sys/net/ipv4/conf/{name}h/route_localnet
            $inside sh -c 'echo 1 >/proc/sys/net/ipv4/conf/{name}w/route_localnet'",
            ports[0], ports[1]
        );
        let made = Command::new("sh").args(["-c", &script]).output().map_err(|e| e.to_string())?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).trim().to_owned());
        }
        for (socket, to) in sockets.into_iter().zip([there, here]) {
            tokio::spawn(carry(Arc::new(socket), to, suffering.clone(), new.line.clone()));
        }
        Ok(new)
    }

    fn end(&self) -> String {
        format!("ip link del {0}h; ip netns del {0}", self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        Command::new("sh").args(["-c", &self.end()]).output().ok();
    }
}

/// Carries packets from one end of the tunnel to the other.
async fn carry(socket: Arc<UdpSocket>, to: u16, suffering: Vec<u16>, line: Arc<Line>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = socket.recv(&mut buffer).await {
        let packet = buffer[..length].to_vec();
        let mut ports = packet.get(TCP_PORTS).unwrap_or_default().chunks(2);
        let suffers = line.is_bad.load(Ordering::Relaxed)
            && ports.any(|port| suffering.contains(&u16::from_be_bytes([port[0], port[1]])));
        if suffers && fastrand::f64() < SHARE {
            line.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        line.passed.fetch_add(usize::from(suffers), Ordering::Relaxed);
        let socket = socket.clone();
        tokio::spawn(async move {
            tokio::time::sleep(if suffers { LATE } else { Duration::ZERO }).await;
            socket.send_to(&packet, ("127.0.0.1", to)).await.ok();
        });
    }
}

async fn packets_are_lost(whose: &str, of: impl Fn(&Rig) -> Vec<&Relay>) {
    // So far away, a connection to the broker takes more than two seconds when one of its packets is lost.
    let patient =
        |settings: String| settings.replace("connect_timeout_ms = 2_000\n", "").replace("127.0.0.1:0", "0.0.0.0:0");
    let mut rig = Rig::with(Broker::shared(), calm(), "", patient).await;
    let ports = of(&rig).iter().map(|relay| relay.address.port()).collect();
    let network = Namespace::new(ports).await;
    if let Ok(network) = &network {
        rig.place.inside = ["ip", "netns", "exec", &network.name].map(str::to_owned).to_vec();
    }
    // What passes such a line in a second is little: no more commands come than it can carry.
    rig.stop_trickle().await;
    *rig.trickle.lock().unwrap() = Some(rig.ledger.trickle("slow", Duration::from_millis(100)));
    let worker = rig.worker().await;
    let how = match &network {
        Ok(network) => {
            network.line.is_bad.store(true, Ordering::Relaxed);
            ""
        }
        Err(why) => {
            println!("no packets can be lost here, so the relay does what their loss does to a stream: {why}");
            of(&rig).iter().for_each(|relay| relay.set(Way::Lossy(SHARE, LATE)));
            " (by a model of TCP's waits)"
        }
    };
    rig.lasts(s(3), s(150)).await;
    if full() {
        // New connections must come about, too. To take up work takes some sixty answers of the broker.
        of(&rig).iter().for_each(|relay| relay.cut());
    }
    let recovered = rig.recovery(Utc::now()).await;
    rig.lasts(s(1), s(150)).await;
    if let Ok(network) = &network {
        let (lost, passed) = (network.line.lost.load(Ordering::Relaxed), network.line.passed.load(Ordering::Relaxed));
        assert!(passed > 50 && (lost > 0 || passed < 500), "{lost} packets were lost, and {passed} passed");
    }
    let fault = format!("{whose}: 1 % of packets lost, 300 ms there and back{how}");
    rig.end(TOPIC, &fault, Some(recovered)).await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_to_the_broker_are_lost() {
    packets_are_lost("Broker", |rig| vec![&rig.to_broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_to_the_provider_are_lost() {
    packets_are_lost("Provider", |rig| vec![&rig.ifortepay, &rig.bnc]).await;
}
