//! Traffic between pods: echo servers, exchanges, and throughput by `iperf3`.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use crate::{Error, Namespace, Pod, Result, eventually};

const LOOK: Duration = Duration::from_millis(20);
const LARGEST_DATAGRAM_BYTES: usize = 1 << 16;

/// Sends everything back. It ends when the value is dropped.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    served: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams, or bytes of a stream, it has sent back.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn start(address: SocketAddr, serve: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || serve(&stop, &served))
        };
        Self { address, served, stop, thread: Some(thread) }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the server has been printed.
            let _ = thread.join();
        }
    }
}

impl Namespace {
    /// Sends every datagram back to where it came from. Port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn udp_echo(&self, address: SocketAddr) -> Result<EchoServer> {
        let failed = || Error::io(format!("UDP echo server on {address} in {}", self.netns_name()));
        let socket = self.run_inside(|| UdpSocket::bind(address))?.map_err(failed())?;
        socket.set_read_timeout(Some(LOOK)).map_err(failed())?;
        let address = socket.local_addr().map_err(failed())?;
        Ok(EchoServer::start(address, move |stop, served| {
            let mut buffer = vec![0; LARGEST_DATAGRAM_BYTES];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                // Counted first: whoever has the answer finds it counted.
                served.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
            }
        }))
    }

    /// Sends everything that comes in a stream back, one connection after the other.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn tcp_echo(&self, address: SocketAddr) -> Result<EchoServer> {
        let failed = || Error::io(format!("TCP echo server on {address} in {}", self.netns_name()));
        let listener = self.run_inside(|| TcpListener::bind(address))?.map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        Ok(EchoServer::start(address, move |stop, served| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => echo_stream(stream, stop, served),
                    Err(_) => thread::sleep(LOOK),
                }
            }
        }))
    }

    /// Sends a datagram and waits for one answer.
    ///
    /// # Errors
    /// It cannot be sent, or no answer comes in time.
    pub fn udp_exchange(&self, to: SocketAddr, payload: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let failed = || Error::io(format!("exchange a datagram with {to} from {}", self.netns_name()));
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
        let socket = self.run_inside(|| UdpSocket::bind((any, 0)))?.map_err(failed())?;
        socket.set_read_timeout(Some(limit)).map_err(failed())?;
        socket.connect(to).map_err(failed())?;
        socket.send(payload).map_err(failed())?;
        let mut buffer = vec![0; LARGEST_DATAGRAM_BYTES];
        let length = socket.recv(&mut buffer).map_err(failed())?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Sends bytes through a TCP connection to an echo server and returns what came back.
    ///
    /// # Errors
    /// The connection fails, or nothing moves for `limit`.
    pub fn tcp_exchange(&self, to: SocketAddr, payload: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let failed = || Error::io(format!("exchange {} bytes with {to} from {}", payload.len(), self.netns_name()));
        let mut stream = self.run_inside(|| TcpStream::connect_timeout(&to, limit))?.map_err(failed())?;
        stream.set_read_timeout(Some(limit)).map_err(failed())?;
        stream.set_write_timeout(Some(limit)).map_err(failed())?;
        let mut writer = stream.try_clone().map_err(failed())?;
        // Both ways at once: an echo of more than both buffers hold would wait for itself.
        thread::scope(|scope| {
            let writing =
                scope.spawn(move || writer.write_all(payload).and_then(|()| writer.shutdown(Shutdown::Write)));
            let mut back = Vec::new();
            stream.read_to_end(&mut back).map_err(failed())?;
            writing.join().unwrap_or(Ok(())).map_err(failed())?;
            Ok(back)
        })
    }
}

/// How an `iperf3` run is done.
#[derive(Debug, Clone, Default)]
pub struct IperfOptions {
    /// For how long; 2 s where it is zero.
    pub duration: Duration,
    /// UDP at this rate in bits per second; TCP where it is `None`.
    pub udp_bits_per_second: Option<u64>,
    /// Connections at the same time; 1 where it is 0.
    pub parallel: u16,
    /// From the server to the client.
    pub reverse: bool,
    /// Further options of the client.
    pub more: Vec<String>,
}

/// What an `iperf3` run measured, as the receiver saw it.
#[derive(Debug, Clone)]
pub struct IperfReport {
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Segments that TCP sent again.
    pub retransmits: Option<u64>,
    /// Datagrams of UDP that did not arrive, in per cent.
    pub lost_percent: Option<f64>,
    /// Everything `iperf3 --json` said.
    pub json: Value,
}

impl IperfReport {
    fn parse(json: Value) -> Result<Self> {
        if let Some(error) = json.get("error").and_then(Value::as_str) {
            return Err(Error::Unexpected(format!("iperf3: {error}")));
        }
        let end = json.get("end");
        let sum = |name: &str, key: &str| end.and_then(|end| end.get(name)?.get(key).cloned());
        let received = |key: &str| sum("sum_received", key).or_else(|| sum("sum", key));
        let report = Self {
            bits_per_second: received("bits_per_second").and_then(|v| v.as_f64()).unwrap_or_default(),
            bytes: received("bytes").and_then(|v| v.as_u64()).unwrap_or_default(),
            retransmits: sum("sum_sent", "retransmits").and_then(|v| v.as_u64()),
            lost_percent: received("lost_percent").and_then(|v| v.as_f64()),
            json,
        };
        Ok(report)
    }
}

impl Pod {
    /// Runs `iperf3` from this pod to `server`, at the server's address `to`; both as the pods' own user.
    ///
    /// # Errors
    /// A side cannot be started, or they do not connect.
    pub fn iperf3(&self, server: &Self, to: IpAddr, options: &IperfOptions) -> Result<IperfReport> {
        static PORT: AtomicU16 = AtomicU16::new(5201);
        let number = PORT.fetch_add(1, Ordering::Relaxed);
        let port = number.to_string();
        let address = to.to_string();
        let listening = server.spawn(["iperf3", "--server", "--one-off", "--port", &port])?;
        eventually("the iperf3 server to listen", Duration::from_secs(5), || {
            Ok(server.listens_tcp(number)?.then_some(()))
        })
        .map_err(|error| Error::Unexpected(format!("{error}: {}", listening.output())))?;

        let duration = if options.duration.is_zero() { Duration::from_secs(2) } else { options.duration };
        let seconds = duration.as_secs().max(1).to_string();
        let parallel = options.parallel.max(1).to_string();
        let mut line = vec!["iperf3", "--json", "--client", &address, "--port", &port, "--time", &seconds];
        line.extend(["--connect-timeout", "5000", "--parallel", &parallel]);
        let rate = options.udp_bits_per_second.map(|rate| rate.to_string());
        if let Some(rate) = &rate {
            line.extend(["--udp", "--bitrate", rate]);
        }
        if options.reverse {
            line.push("--reverse");
        }
        line.extend(options.more.iter().map(String::as_str));
        let ran = self.run_for(duration.saturating_add(Duration::from_secs(20)), line)?;
        let json = serde_json::from_str(&ran.stdout)
            .map_err(|error| Error::Unexpected(format!("`{}`: {error}: {}{}", ran.command, ran.stdout, ran.stderr)))?;
        IperfReport::parse(json)
    }

    /// Whether a process of the pod listens on a TCP port (proc(5) `net/tcp`, state 0A).
    fn listens_tcp(&self, port: u16) -> Result<bool> {
        let suffix = format!(":{port:04X}");
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/net/{file}", self.pid()));
        let text = read("tcp").and_then(|v4| Ok(v4 + &read("tcp6")?));
        let text = text.map_err(Error::io(format!("look at the sockets of pod {}", self.name())))?;
        Ok(text.lines().any(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&suffix)) && words.nth(1) == Some("0A")
        }))
    }
}

fn echo_stream(mut stream: TcpStream, stop: &AtomicBool, served: &AtomicU64) {
    let mut buffer = vec![0; LARGEST_DATAGRAM_BYTES];
    if stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(LOOK))).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                served.fetch_add(u64::try_from(length).unwrap_or_default(), Ordering::Relaxed);
                if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => (),
            Err(_) => return,
        }
    }
}
