//! A standby of PostgreSQL at the other end: how far it is behind.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use adit_lab::{COMMAND_DEADLINE, Ran, eventually, run};
use nix::unistd::User;

use crate::{
    Outcome,
    loss::{cell::Cell, way::Way},
    statistics::summary,
    tunnel::{bed::Side, process::Process, process::command},
};

/// The server refuses to run as root.
const USER: &str = "postgres";
const TRANSACTIONS_PER_SECOND: u32 = 200;
/// After the last transaction.
const CATCH_UP: Duration = Duration::from_secs(30);
const START: Duration = Duration::from_secs(30);
const PAUSE_SECONDS: &str = "0.2";
const LAG: &str = "SELECT coalesce(extract(epoch FROM replay_lag), 0), pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) \
                   FROM pg_stat_replication WHERE state = 'streaming'";

/// How far the standby was behind.
#[derive(Debug, Clone, Copy)]
pub struct Lag {
    pub median_seconds: f64,
    pub most_seconds: f64,
    /// When the last transaction had been made.
    pub behind_bytes: f64,
    /// From then on; infinite when it took too long.
    pub caught_up_seconds: f64,
}

/// What is measured, in words.
pub fn fact(seconds: u32) -> String {
    format!(
        "Database: PostgreSQL in A with an asynchronous streaming standby in B, pgbench with {TRANSACTIONS_PER_SECOND} transactions a second for {seconds} s; lag is replay_lag, five times a second."
    )
}

/// A makes transactions, B follows.
pub fn replicate(cell: &Cell, way: Way, programs: &Path, seconds: u32) -> Outcome<Lag> {
    let pair = Pair::up(cell, way, programs)?;
    let lags = pair.directory.join("lags");
    let mut watch = pair.user(cell, Side::A, "psql");
    watch.args(["-h", &pair.sockets(Side::A), "-U", USER, "-d", "postgres", "-AtF", " ", "-c"]);
    // \watch is a line of its own.
    let script = pair.directory.join("watch.sql");
    fs::write(&script, format!("{LAG} \\watch {PAUSE_SECONDS}\n"))?;
    watch.args(["SELECT 1", "-f"]).arg(&script);
    let watching = Process::start(watch, &lags)?;
    let mut load = pair.user(cell, Side::A, "pgbench");
    load.args(["-h", &pair.sockets(Side::A), "-U", USER, "-n", "-c", "4", "-R", &TRANSACTIONS_PER_SECOND.to_string()]);
    load.args(["-T", &seconds.to_string(), "postgres"]);
    run(load, None, Duration::from_secs(seconds.into()) + COMMAND_DEADLINE)?.ok()?;
    let ended = Instant::now();
    let behind_bytes = pair.lag(cell)?.1;
    let caught_up = eventually("the standby to catch up", CATCH_UP, || match pair.lag(cell) {
        Ok((_, behind)) => Ok((behind <= 0.0).then(|| ended.elapsed().as_secs_f64())),
        Err(error) => Err(adit_lab::Error::Unexpected(error.to_string())),
    });
    drop(watching);
    let seen: Vec<f64> =
        fs::read_to_string(&lags)?.lines().filter_map(|line| numbers(line).map(|(lag, _)| lag)).collect();
    if seen.is_empty() {
        return Err("the standby was never seen streaming".into());
    }
    Ok(Lag {
        median_seconds: summary(&seen).median,
        most_seconds: seen.iter().copied().fold(0.0, f64::max),
        behind_bytes,
        caught_up_seconds: caught_up.unwrap_or(f64::INFINITY),
    })
}

fn numbers(line: &str) -> Option<(f64, f64)> {
    let (lag, behind) = line.trim().split_once(' ')?;
    Some((lag.parse().ok()?, behind.parse().ok()?))
}

/// Primary in A, standby in B.
struct Pair {
    /// They end before their files go.
    servers: Vec<Process>,
    programs: PathBuf,
    directory: PathBuf,
}

impl Pair {
    fn up(cell: &Cell, way: Way, programs: &Path) -> Outcome<Self> {
        // `sweep` knows the name.
        let directory = PathBuf::from(format!("/run/adit-bench-{}-apps", std::process::id()));
        let mut pair = Self { servers: Vec::new(), programs: programs.to_owned(), directory };
        let user = User::from_name(USER)?.ok_or("there is no user postgres: apt-get install postgresql")?;
        let _ = fs::remove_dir_all(&pair.directory);
        fs::create_dir_all(&pair.directory)?;
        fs::set_permissions(&pair.directory, fs::Permissions::from_mode(0o755))?;
        for side in Side::BOTH {
            for directory in [pair.home(side), pair.sockets(side)] {
                fs::create_dir(&directory)?;
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
                chown(&directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        let [primary, standby] = Side::BOTH.map(|side| pair.home(side));
        let mut initdb = pair.user(cell, Side::A, "initdb");
        initdb.args(["-D", &primary, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]);
        done(initdb)?;
        let access = Path::new(&primary).join("pg_hba.conf");
        fs::write(&access, "local all all trust\nlocal replication all trust\nhost replication all 0.0.0.0/0 trust\n")?;
        pair.start(cell, Side::A, &[])?;
        let mut fill = pair.user(cell, Side::A, "pgbench");
        fill.args(["-h", &pair.sockets(Side::A), "-U", USER, "-i", "-q", "-s", "2", "postgres"]);
        done(fill)?;
        // Beside the link: it is not what is measured.
        let mut copy = pair.user(cell, Side::A, "pg_basebackup");
        copy.args([
            "-h",
            &pair.sockets(Side::A),
            "-U",
            USER,
            "-D",
            &standby,
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
        ]);
        done(copy)?;
        let signal = Path::new(&standby).join("standby.signal");
        fs::write(&signal, "")?;
        let from = way.kind().inner(Side::A);
        pair.start(cell, Side::B, &["-c", &format!("primary_conninfo=host={from} user={USER}")])?;
        eventually("the standby to stream", START, || {
            pair.lag(cell).map(Some).map_err(|error| adit_lab::Error::Unexpected(error.to_string()))
        })?;
        Ok(pair)
    }

    /// Data directory of a side's server.
    fn home(&self, side: Side) -> String {
        self.directory.join(side.letter()).display().to_string()
    }

    /// Where its socket is: what is in the data directory would be copied.
    fn sockets(&self, side: Side) -> String {
        self.directory.join(format!("{}-sockets", side.letter())).display().to_string()
    }

    /// A program of PostgreSQL in a pod, as PostgreSQL's user.
    fn user(&self, cell: &Cell, side: Side, program: &str) -> Command {
        let mut command = command(&cell.pod(side), None, "setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(self.programs.join(program));
        command.current_dir("/").env("LC_ALL", "C");
        command
    }

    fn start(&mut self, cell: &Cell, side: Side, further: &[&str]) -> Outcome {
        let (home, sockets) = (self.home(side), self.sockets(side));
        let mut server = self.user(cell, side, "postgres");
        server.args([
            "-D",
            &home,
            "-k",
            &sockets,
            "-c",
            "listen_addresses=*",
            "-c",
            "fsync=off",
            "-c",
            "hot_standby=on",
        ]);
        server.args(["-c", "max_wal_size=1GB", "-c", "wal_keep_size=512MB", "-c", "wal_receiver_status_interval=1s"]);
        server.args(further);
        let mut server = Process::start(server, &self.directory.join(format!("{}.log", side.letter())))?;
        let socket = Path::new(&sockets).join(".s.PGSQL.5432");
        server.until("the database to listen", START, |_| socket.exists().then_some(()))?;
        self.servers.push(server);
        eventually("the database to answer", START, || {
            let mut ready = self.user(cell, side, "pg_isready");
            ready.args(["-h", &sockets]);
            run(ready, None, COMMAND_DEADLINE)?.ok().map(Some)
        })?;
        Ok(())
    }

    /// Seconds and bytes that the standby is behind.
    fn lag(&self, cell: &Cell) -> Outcome<(f64, f64)> {
        let mut psql = self.user(cell, Side::A, "psql");
        psql.args(["-h", &self.sockets(Side::A), "-U", USER, "-d", "postgres", "-AtF", " ", "-c", LAG]);
        let said = done(psql)?.stdout;
        numbers(&said).ok_or_else(|| format!("the standby does not stream: {said}").into())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.servers.clear();
        // The next run removes what is left.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn done(command: Command) -> Outcome<Ran> {
    Ok(run(command, None, COMMAND_DEADLINE * 2)?.ok()?)
}
