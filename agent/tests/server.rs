//! The socket against clients that are slow, many or both.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use adit_agent::{
    registry::Registry,
    server::{self, PATIENCE, SLOTS, Server},
};
use adit_dataplane::Engine;
use adit_tunnel::{Client, KeyStore, protocol::SOCKET_NAME};

/// Serves `run_dir` until the test's process ends.
fn serve(run_dir: &Path) {
    let mut server = Server::claim(run_dir).unwrap();
    let registry = Registry::new(run_dir, KeyStore::new(run_dir), Engine::start(1).unwrap(), Arc::default()).unwrap();
    let (ready, listening) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = server.listen().unwrap();
            ready.send(()).unwrap();
            server::answer(&listener, &registry, &server::Slots::default()).await;
        });
    });
    listening.recv().unwrap();
}

#[test]
fn a_client_that_dribbles_is_hung_up_on() {
    let directory = tempfile::tempdir().unwrap();
    serve(directory.path());
    let mut slow = UnixStream::connect(directory.path().join(SOCKET_NAME)).unwrap();
    let start = Instant::now();
    slow.write_all(&1000_u32.to_be_bytes()).unwrap();
    while slow.write_all(b" ").is_ok() {
        assert!(start.elapsed() < PATIENCE * 2, "it still holds its slot");
        Client::new(directory.path()).ping().unwrap();
        thread::sleep(PATIENCE / 10);
    }
    assert!(start.elapsed() > PATIENCE / 2);
}

#[test]
fn clients_beyond_the_slots_wait_in_the_backlog_and_are_answered_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    serve(directory.path());
    let socket = directory.path().join(SOCKET_NAME);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let clients = SLOTS + 50;
    let mut idle: Vec<UnixStream> = (0..clients).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    thread::sleep(Duration::from_millis(300));
    // The other test of this process opens a few.
    let accepted = open() - before - clients;
    assert!(accepted < SLOTS + 20, "{accepted} clients were accepted");
    let start = Instant::now();
    idle.truncate(SLOTS + 20);
    drop(idle.drain(..SLOTS));
    Client::new(directory.path()).ping().unwrap();
    assert!(start.elapsed() < PATIENCE, "slots are free again as soon as their clients are gone");
    let mut end = Vec::new();
    idle.remove(0).read_to_end(&mut end).unwrap();
    assert!(end.is_empty() && start.elapsed() < PATIENCE * 2);
}
