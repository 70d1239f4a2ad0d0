//! Metrics for Prometheus, by HTTP.
//!
//! A scrape is bounded in time ([`PATIENCE`]), scrapes in number ([`SLOTS`]), and what is scraped by the node's tunnels. It is made from
//! a [snapshot](Snapshots), so that no number of scrapes keeps a packet thread from its work.

mod page;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    Error, Options, Result,
    readers::{self, Group, persist},
    snapshots::Snapshots,
};

/// How long a scrape may take, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Scrapes answered at once; further ones wait in the socket's backlog.
const SLOTS: usize = 8;
/// What is read of a request before it is refused; hyper takes no less.
const REQUEST_BYTES: usize = 8192;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PATH: &str = "/metrics";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system, for root and the status group.
    Unix(PathBuf),
    /// An address and port of the node.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        const FORMS: &str = "write unix:/run/adit/metrics.sock, 127.0.0.1:9464 or [::1]:9464";
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(format!("the path must begin with /; {FORMS}")),
            None => text.parse().map(Self::Tcp).map_err(|_| format!("is no address and port; {FORMS}")),
        }
    }
}

/// Whether metrics may be served where `options` says.
///
/// # Errors
/// Other nodes could read them, and nobody has agreed to that.
pub fn check(options: &Options) -> Result<()> {
    match options.metrics {
        Some(Address::Tcp(address)) if !address.ip().is_loopback() && !options.metrics_anywhere => {
            let problem = "whoever reaches it reads names, addresses and public keys; write a loopback address and let an agent of the \
                           node fetch them, or add --metrics-anywhere";
            Err(Error::start("serve metrics on an address that is not loopback", io::Error::other(problem)))
        }
        _ => Ok(()),
    }
}

/// Serves for ever, as soon as the address is free.
pub async fn serve(address: Address, group: Option<Group>, snapshots: Arc<Snapshots>) {
    let started = Instant::now();
    let slots = Arc::new(Semaphore::new(SLOTS));
    let listener = persist(|| Listener::bind(&address, group)).await;
    tracing::info!("serving metrics on {address:?}");
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let scrape = Scrape { snapshots: Arc::clone(&snapshots), started };
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| drop(answer(stream, scrape, slot))),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| drop(answer(stream, scrape, slot))),
        };
        if let Err(error) = accepted {
            tracing::warn!("cannot accept a scrape: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(address: &Address, group: Option<Group>) -> io::Result<Self> {
        match address {
            Address::Unix(path) => readers::listen(path, group).map(Self::Unix),
            Address::Tcp(address) => {
                let failed = |error: io::Error| {
                    io::Error::new(error.kind(), format!("cannot serve metrics on {address}: {error}"))
                };
                let listener = StdListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                TcpListener::from_std(listener).map(Self::Tcp).map_err(failed)
            }
        }
    }
}

#[derive(Clone)]
struct Scrape {
    snapshots: Arc<Snapshots>,
    started: Instant,
}

/// Answers one request, and hangs up.
fn answer<S>(stream: S, scrape: Scrape, slot: OwnedSemaphorePermit) -> tokio::task::JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let service = service_fn(move |request| respond(request, scrape.clone()));
        let mut http = http1::Builder::new();
        let connection =
            http.keep_alive(false).max_buf_size(REQUEST_BYTES).serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(PATIENCE, connection).await {
            Ok(Err(error)) => tracing::debug!("a scrape went away: {error}"),
            Err(_) => tracing::debug!("a scrape took too long"),
            Ok(Ok(())) => {}
        }
        drop(slot);
    })
}

async fn respond(request: Request<Incoming>, scrape: Scrape) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != PATH {
        return Ok(said(StatusCode::NOT_FOUND, TEXT, format!("there is nothing but {PATH}\n")));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = said(StatusCode::METHOD_NOT_ALLOWED, TEXT, "it can be read, and nothing else\n".into());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    // Asks the data plane, and waits for it.
    let page = tokio::task::spawn_blocking(move || {
        let agent = page::Agent::look(scrape.started);
        page::page(scrape.snapshots.get(), agent)
    });
    Ok(match page.await {
        Ok(Ok(page)) => said(StatusCode::OK, OPEN_METRICS, page),
        _ => said(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics could not be written\n".into()),
    })
}

fn said(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn metrics_leave_the_node_only_where_somebody_agrees() {
        let check_of = |words: &[&str]| {
            let options = Options::try_parse_from(["aditd"].iter().chain(words)).map_err(|error| error.to_string())?;
            check(&options).map_err(|error| error.to_string())
        };
        for fine in [
            &[][..],
            &["--metrics", "127.0.0.1:9464"],
            &["--metrics", "[::1]:9464"],
            &["--metrics", "unix:/run/adit/metrics.sock"],
            &["--metrics", "0.0.0.0:9464", "--metrics-anywhere"],
        ] {
            assert_eq!(check_of(fine), Ok(()), "{fine:?}");
        }
        for (refused, word) in [
            (&["--metrics", "0.0.0.0:9464"][..], "--metrics-anywhere"),
            (&["--metrics", "[2001:db8::1]:9464"], "--metrics-anywhere"),
            (&["--metrics", "localhost:9464"], "127.0.0.1:9464"),
            (&["--metrics", "unix:metrics.sock"], "must begin with /"),
        ] {
            let refusal = check_of(refused).unwrap_err();
            assert!(refusal.contains(word), "{refusal}");
        }
    }
}
