//! A film over HTTP: parts of two seconds, one after the other over one connection, and somebody who watches.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use adit_net::Netns;

use crate::{
    Outcome,
    loss::{cell::Cell, way::Way},
    tunnel::bed::Side,
};

const PORT: u16 = 8080;
const PART_SECONDS: u32 = 2;
const MBIT_PER_SECOND: u32 = 3;
const PART_BYTES: usize = (MBIT_PER_SECOND * PART_SECONDS) as usize * 1_000_000 / 8;
/// Parts that a player wants to have before it begins, and after it has run dry.
const AHEAD: usize = 2;
/// Whoever has waited so many times the film's length has gone.
const PATIENCE: u32 = 2;

/// What somebody saw.
#[derive(Debug, Clone, Copy)]
pub struct View {
    pub start_seconds: f64,
    pub stalls: f64,
    pub stalled_seconds: f64,
    /// Share of the film that arrived before the viewer had gone.
    pub seen: f64,
}

/// What is measured, in words.
pub fn fact(seconds: u32) -> String {
    format!(
        "Film: {seconds} s of {MBIT_PER_SECOND} Mb/s from A to B over HTTP/1.1, parts of {PART_SECONDS} s over one connection; plays from {AHEAD} parts on, also after a stall; given up after {} s.",
        seconds * PATIENCE
    )
}

/// B watches a film that A has.
pub fn watch(cell: &Cell, way: Way, seconds: u32) -> Outcome<View> {
    let address = SocketAddr::new(way.kind().inner(Side::A), PORT);
    let listener = Netns::open(cell.netns(Side::A))?.run_on_thread(|| TcpListener::bind(address))??;
    let server = thread::spawn(move || serve(&listener));
    let limit = Duration::from_secs((seconds * PATIENCE).into());
    let begun = Instant::now();
    let stream = Netns::open(cell.netns(Side::B))?.run_on_thread(|| TcpStream::connect_timeout(&address, limit))??;
    let arrivals = fetch(stream, (seconds / PART_SECONDS) as usize, begun, limit);
    // The connection is closed: it ends.
    server.join().map_err(|_| "the server panicked")?;
    Ok(play(&arrivals?, (seconds / PART_SECONDS) as usize, limit))
}

/// One connection: an answer for each request until it is closed.
fn serve(listener: &TcpListener) {
    let Ok((stream, _)) = listener.accept() else { return };
    let Ok(mut writer) = stream.try_clone() else { return };
    let part = vec![0x42_u8; PART_BYTES];
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(line)) = lines.next() {
        // A request ends with an empty line.
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {PART_BYTES}\r\n\r\n");
        if line.is_empty() && writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&part)).is_err() {
            return;
        }
    }
}

/// When each part had arrived; fewer than asked for when the time was over.
fn fetch(stream: TcpStream, parts: usize, begun: Instant, limit: Duration) -> io::Result<Vec<Duration>> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut arrivals = Vec::new();
    let mut buffer = [0; 1 << 16];
    for number in 0..parts {
        write!(writer, "GET /film/{number}.mp4 HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if !wait(&reader, begun, limit)? || reader.read_line(&mut line).is_err() {
                return Ok(arrivals);
            }
        }
        let mut left = PART_BYTES;
        while left > 0 {
            if !wait(&reader, begun, limit)? {
                return Ok(arrivals);
            }
            let length = buffer.len().min(left);
            match reader.read(&mut buffer[..length]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => left -= read,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => (),
                Err(error) => return Err(error),
            }
        }
        arrivals.push(begun.elapsed());
    }
    Ok(arrivals)
}

/// Lets the next read wait until the end at most; false when that is over.
fn wait(reader: &BufReader<TcpStream>, begun: Instant, limit: Duration) -> io::Result<bool> {
    let left = limit.saturating_sub(begun.elapsed());
    if left.is_zero() {
        return Ok(false);
    }
    reader.get_ref().set_read_timeout(Some(left))?;
    Ok(true)
}

/// What a player makes of the arrivals.
fn play(arrivals: &[Duration], parts: usize, limit: Duration) -> View {
    let part = Duration::from_secs(PART_SECONDS.into());
    // Until when there is something to show, and from which part on it is ready again.
    let mut shown_until = Duration::ZERO;
    let mut view = View { start_seconds: limit.as_secs_f64(), stalls: 0.0, stalled_seconds: 0.0, seen: 0.0 };
    let mut number = 0;
    while number < parts {
        let is_there = arrivals.get(number).is_some_and(|arrived| *arrived <= shown_until);
        if number > 0 && is_there {
            shown_until += part;
            number += 1;
            continue;
        }
        // Nothing to show: as at the beginning, it waits for some parts.
        let ready = arrivals.get((number + AHEAD).min(parts) - 1).copied().unwrap_or(limit);
        if number == 0 {
            view.start_seconds = ready.as_secs_f64();
        } else {
            view.stalls += 1.0;
            view.stalled_seconds += ready.saturating_sub(shown_until).as_secs_f64();
        }
        if ready >= limit || arrivals.len() <= number {
            break;
        }
        shown_until = ready + part;
        number += 1;
    }
    view.seen = number as f64 / parts.max(1) as f64;
    view
}
