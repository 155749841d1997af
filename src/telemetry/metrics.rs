//! The metrics of one gateway. Handles are resolved when a configuration is loaded, so that a request adds to
//! atomics only.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::Histogram;
use crate::answer::Code;

type Label = (&'static str, Arc<str>);

/// Statuses whose counters are kept ready; any other is looked up.
const COMMON: [u16; 36] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 412,
    413, 415, 417, 421, 422, 426, 429, 431, 499, 500, 501, 502, 503, 504, 414,
];

/// All metrics, and the text that a scrape gets.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<[Label; 2], Counter>,
    request_seconds: Family<[Label; 1], Histogram>,
    upstream_seconds: Family<[Label; 1], Histogram>,
    refusals: Vec<Counter>,
    shadow_refusals: Vec<Counter>,
    /// `portcullis_config_reloads_total{result="ok"}`.
    pub reloads_ok: Counter,
    /// `portcullis_config_reloads_total{result="failed"}`.
    pub reloads_failed: Counter,
    /// `portcullis_log_fsync_seconds`.
    pub fsync_seconds: Histogram,
    /// `portcullis_live_connections`.
    pub live_connections: Gauge,
    /// `portcullis_cut_connections_total`.
    pub cut_connections: Counter,
    /// `portcullis_propagation_seconds`.
    pub propagation_seconds: Histogram,
    issuer_fetches: Family<[Label; 2], Counter>,
    issuer_keys_at: Family<[Label; 1], Gauge>,
    /// `portcullis_access_log_dropped_total`.
    pub access_lines_dropped: Counter,
}

/// The handles of one route.
pub struct RouteMetrics {
    route: Arc<str>,
    requests: Family<[Label; 2], Counter>,
    common: [OnceLock<Counter>; COMMON.len()],
    /// `portcullis_request_seconds`.
    pub request_seconds: Histogram,
    /// `portcullis_upstream_seconds`.
    pub upstream_seconds: Histogram,
}

/// Figures that other rooms keep themselves, read at each scrape.
pub type Samples = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// One figure read at a scrape.
pub struct Sample {
    /// Without the `_total` of counters.
    pub name: &'static str,
    /// For `# HELP`.
    pub help: &'static str,
    /// At most one label.
    pub label: Option<(&'static str, &'static str)>,
    /// The figure.
    pub value: f64,
    /// A counter, else a gauge.
    pub counter: bool,
}

struct Sampler(Samples);

impl Metrics {
    /// Every metric at nought.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("portcullis");
        let requests = Family::<[Label; 2], Counter>::default();
        registry.register("requests", "Requests answered, by route and status", requests.clone());
        let request_seconds = Family::<[Label; 1], Histogram>::default();
        registry.register(
            "request_seconds",
            "From the request head to the end of the answer",
            request_seconds.clone(),
        );
        let upstream_seconds = Family::<[Label; 1], Histogram>::default();
        registry.register(
            "upstream_seconds",
            "From sending upstream to the response head",
            upstream_seconds.clone(),
        );
        let refusals =
            by_code(&mut registry, "refusals", "Answers that the gateway itself gave instead of forwarding");
        let shadow_refusals = by_code(
            &mut registry,
            "shadow_refusals",
            "Requests that enforcing would have refused, on shadow routes",
        );
        let reloads = Family::<[Label; 1], Counter>::default();
        registry.register("config_reloads", "Reloads of the configuration, by result", reloads.clone());
        let reload = |result: &str| reloads.get_or_create_owned(&[("result", Arc::from(result))]);
        let (reloads_ok, reloads_failed) = (reload("ok"), reload("failed"));
        let fsync_seconds = Histogram::default();
        registry.register("log_fsync_seconds", "Syncing the revocation log", fsync_seconds.clone());
        let live_connections = Gauge::default();
        registry.register("live_connections", "Streams that end with their token", live_connections.clone());
        let cut_connections = Counter::default();
        registry.register(
            "cut_connections",
            "Streams ended because their token was revoked or expired",
            cut_connections.clone(),
        );
        let propagation_seconds = Histogram::default();
        registry.register(
            "propagation_seconds",
            "From a revocation on another gateway to its enforcement here",
            propagation_seconds.clone(),
        );
        let issuer_fetches = Family::<[Label; 2], Counter>::default();
        registry.register(
            "issuer_fetches",
            "Key sets fetched and tokens introspected, by issuer and result",
            issuer_fetches.clone(),
        );
        let issuer_keys_at = Family::<[Label; 1], Gauge>::default();
        registry.register(
            "issuer_keys_fetched_timestamp_seconds",
            "When an issuer's key set was last fetched, in Unix seconds",
            issuer_keys_at.clone(),
        );
        let access_lines_dropped = Counter::default();
        registry.register(
            "access_log_dropped",
            "Access-log lines dropped because standard output was too slow",
            access_lines_dropped.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            requests,
            request_seconds,
            upstream_seconds,
            refusals,
            shadow_refusals,
            reloads_ok,
            reloads_failed,
            fsync_seconds,
            live_connections,
            cut_connections,
            propagation_seconds,
            issuer_fetches,
            issuer_keys_at,
            access_lines_dropped,
        }
    }

    /// Adds figures that are read at each scrape.
    pub fn sample(&self, samples: Samples) {
        self.registry.lock().expect("encoding does not panic").register_collector(Box::new(Sampler(samples)));
    }

    /// The handles of one route, made once per configuration.
    pub fn route(&self, name: &Arc<str>) -> RouteMetrics {
        let label: [Label; 1] = [("route", name.clone())];
        RouteMetrics {
            route: name.clone(),
            requests: self.requests.clone(),
            common: std::array::from_fn(|_| OnceLock::new()),
            request_seconds: self.request_seconds.get_or_create_owned(&label),
            upstream_seconds: self.upstream_seconds.get_or_create_owned(&label),
        }
    }

    /// Counts a question to an external issuer: `ok` or `failed`.
    pub fn issuer_fetched(&self, issuer: &Arc<str>, result: &'static str) {
        let labels: [Label; 2] = [("issuer", issuer.clone()), ("result", Arc::from(result))];
        self.issuer_fetches.get_or_create_owned(&labels).inc();
    }

    /// An issuer's keys are as new as this, in Unix seconds.
    pub fn issuer_keys_at(&self, issuer: &Arc<str>, secs: u64) {
        let label: [Label; 1] = [("issuer", issuer.clone())];
        self.issuer_keys_at.get_or_create_owned(&label).set(i64::try_from(secs).unwrap_or(i64::MAX));
    }

    /// Counts an answer of our own.
    pub fn refused(&self, code: Code) {
        self.refusals[code as usize].inc();
    }

    /// Counts a refusal that a shadow route let pass.
    pub fn shadow_refused(&self, code: Code) {
        self.shadow_refusals[code as usize].inc();
    }

    /// The text of a scrape in Prometheus' own format (version 0.0.4), which more programs read than OpenMetrics: the
    /// samples are the same, and counters are described under the name that their samples have.
    pub fn classic_text(&self) -> String {
        classic(&self.text())
    }

    /// The text of a scrape (OpenMetrics 1.0).
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let registry = self.registry.lock().expect("encoding does not panic");
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

fn classic(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    // `# HELP` stands before the `# TYPE` that tells how the family is called.
    let mut help = "";
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described;
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|described| described.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = help.strip_prefix(name).unwrap_or_default();
            classic.push_str(&format!("# HELP {name}{suffix}{help}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            classic.push_str(line);
            classic.push('\n');
        }
    }
    classic
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl RouteMetrics {
    /// The route's name.
    pub fn name(&self) -> &str {
        &self.route
    }

    /// Counts one answered request.
    pub fn answered(&self, status: u16) {
        let label = || [("route", self.route.clone()), ("status", Arc::from(status.to_string()))];
        match COMMON.iter().position(|&common| common == status) {
            Some(at) => {
                self.common[at].get_or_init(|| self.requests.get_or_create_owned(&label())).inc();
            }
            None => {
                self.requests.get_or_create_owned(&label()).inc();
            }
        }
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouteMetrics({})", self.route)
    }
}

fn by_code(registry: &mut Registry, name: &str, help: &str) -> Vec<Counter> {
    let family = Family::<[Label; 1], Counter>::default();
    registry.register(name, help, family.clone());
    Code::ALL.iter().map(|code| family.get_or_create_owned(&[("code", Arc::from(code.name()))])).collect()
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sampler")
    }
}

impl Collector for Sampler {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let samples = (self.0)();
        // One descriptor a name, whatever the number of labels under it.
        for group in samples.chunk_by(|a, b| a.name == b.name) {
            let first = &group[0];
            let kind = if first.counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(first.name, first.help, None, kind)?;
            for sample in group {
                let value = sample.value;
                match &sample.label {
                    Some(label) => one(sample.counter, value, family.encode_family(&[*label])?)?,
                    None => one(sample.counter, value, family.encode_family::<[Label; 0]>(&[])?)?,
                }
            }
        }
        Ok(())
    }
}

fn one(
    counter: bool,
    value: f64,
    encoder: prometheus_client::encoding::MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    if counter { ConstCounter::new(value).encode(encoder) } else { ConstGauge::new(value).encode(encoder) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let metrics = Metrics::new();
        let route = metrics.route(&Arc::from("api"));
        route.answered(200);
        route.answered(200);
        route.answered(299);
        metrics.refused(Code::TokenRevoked);
        metrics.sample(Box::new(|| {
            let sample = |kind, value| Sample {
                name: "blocklist_entries",
                help: "Entries",
                label: Some(("kind", kind)),
                value,
                counter: false,
            };
            vec![sample("token", 3.0), sample("session", 1.0)]
        }));
        let text = metrics.text();
        for line in [
            "portcullis_requests_total{route=\"api\",status=\"200\"} 2",
            "portcullis_requests_total{route=\"api\",status=\"299\"} 1",
            "portcullis_refusals_total{code=\"token_revoked\"} 1",
            "portcullis_blocklist_entries{kind=\"token\"} 3.0",
            "portcullis_blocklist_entries{kind=\"session\"} 1.0",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
    }

    #[test]
    fn the_classic_text_describes_counters_by_the_names_of_their_samples() {
        let metrics = Metrics::new();
        metrics.reloads_ok.inc();
        let text = metrics.classic_text();
        let stands = |line: &str| text.lines().any(|other| other == line);
        for line in [
            "# HELP portcullis_config_reloads_total Reloads of the configuration, by result.",
            "# TYPE portcullis_config_reloads_total counter",
            "portcullis_config_reloads_total{result=\"ok\"} 1",
            "# TYPE portcullis_live_connections gauge",
            "portcullis_live_connections 0",
            "# TYPE portcullis_log_fsync_seconds histogram",
        ] {
            assert!(stands(line), "no line {line:?} in\n{text}");
        }
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[test]
    fn common_statuses_stand_once() {
        let mut sorted = COMMON;
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
