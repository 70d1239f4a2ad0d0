//! What a plugin says beside its result: on stderr, which runtimes keep in their log.

use std::fmt::{Debug, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

use adit_cni::Plugin;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;

/// Runs a plugin whose steps and warnings are logged to stderr, as far as `ADIT_LOG` wants them (`warn` by default).
pub fn main<P: Plugin>(plugin: &P) -> ExitCode {
    let wanted = std::env::var("ADIT_LOG").ok().and_then(|text| text.parse().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    // Nobody has set another one in this process.
    let _ = tracing::subscriber::set_global_default(Lines { filter, out: |line: &[u8]| io::stderr().write_all(line) });
    adit_cni::main(plugin)
}

/// A line for each event. The library's own formatter, with its spans, clock and colours, is a tenth of a plugin's size.
struct Lines<F> {
    filter: Targets,
    out: F,
}

impl<F: Fn(&[u8]) -> io::Result<()> + 'static> Subscriber for Lines<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.filter.would_enable(metadata.target(), metadata.level())
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        line.0.push('\n');
        // There is nowhere else to say that it cannot be said.
        let _ = (self.out)(line.0.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// `WARN the message key=value`
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        let out = move |line: &[u8]| {
            keep.lock().unwrap().extend_from_slice(line);
            Ok(())
        };
        let filter = "debug".parse().unwrap();
        tracing::subscriber::with_default(Lines { filter, out }, || {
            let step = "give the bridge 10.1.1.1/24";
            tracing::trace!(%step);
            tracing::debug!(%step);
            tracing::warn!(port = "veth0", "it does not {}", "forward");
        });
        assert_eq!(
            String::from_utf8_lossy(&kept.lock().unwrap()),
            "DEBUG step=give the bridge 10.1.1.1/24\nWARN it does not forward port=\"veth0\"\n"
        );
    }

    #[test]
    fn the_filter_knows_levels_and_targets() {
        let filter: Targets = "adit_net=debug,warn".parse().unwrap();
        assert!(filter.would_enable("adit_net::channel", &tracing::Level::DEBUG));
        assert!(!filter.would_enable("adit_bridge", &tracing::Level::INFO));
        assert!("loud".parse::<Targets>().is_ok_and(|filter| !filter.would_enable("adit_net", &tracing::Level::DEBUG)));
    }
}
