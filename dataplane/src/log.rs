//! Logging: text for people on a terminal, JSON lines for programs otherwise.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error, once per process: text where that is a terminal, else one JSON object per
/// line. `OUTRIGGER_LOG` filters as `RUST_LOG` does (`debug`, `outrigger_gateway=trace`); `info` when unset.
pub fn init() {
    let filter = EnvFilter::try_from_env("OUTRIGGER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call (two programs in one test process) keeps the first one's subscriber.
    let _ = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
