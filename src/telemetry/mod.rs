//! Counters, the access-log record and its writer. Nothing here waits, and no label takes a value from a client.

mod access_log;
mod histogram;
mod metrics;
pub mod settings;

pub use access_log::{AccessLog, Record};
pub use histogram::Histogram;
pub use metrics::{Metrics, RouteMetrics, Sample, Samples};

/// Starts the event log on standard error: JSON, or lines for people where that is a terminal. `PORTCULLIS_LOG`
/// chooses what is written (default `info`). Later calls do nothing.
pub fn start_events() {
    use std::io::IsTerminal;
    use tracing_subscriber::{EnvFilter, fmt};

    let filter = EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let events = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // The second call of a process finds a subscriber there already.
    let _ = if std::io::stderr().is_terminal() { events.try_init() } else { events.json().try_init() };
}
