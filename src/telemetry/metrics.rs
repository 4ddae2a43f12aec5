//! Every metric the relay has, in one place. Labels come from configuration and closed sets only, never from events.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::model::{DestinationName, Outcome, RuleName, SourceName};

/// As OpenMetrics: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SourceResult {
    source: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SourceStatus {
    source: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rule {
    rule: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Destination {
    destination: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DestinationState {
    destination: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DestinationOutcome {
    destination: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DestinationCause {
    destination: String,
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultOnly {
    result: &'static str,
}

/// Why the small plain message went out instead of the template's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainCause {
    Render,
    Refused,
}

impl PlainCause {
    const fn name(self) -> &'static str {
        match self {
            Self::Render => "render",
            Self::Refused => "refused",
        }
    }
}

/// A gauge that is absent until there is something to tell: a zero would read as a good answer, or as a time long ago.
#[derive(Clone, Debug, Default)]
struct OnceKnown<G>(Arc<OnceLock<G>>);

impl<G: Default> OnceKnown<G> {
    fn known(&self) -> &G {
        self.0.get_or_init(G::default)
    }
}

impl<G: EncodeMetric> EncodeMetric for OnceKnown<G> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.get().map_or(Ok(()), |gauge| gauge.encode(encoder))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// Where one destination's deliveries stand, read from the store when the metrics are asked for.
pub struct Standing<'a> {
    pub destination: &'a str,
    pub states: [(&'static str, u64); 4],
    pub taking: bool,
    pub oldest_owed_seconds: f64,
}

pub struct Metrics {
    registry: Registry,
    events: Family<SourceResult, Counter>,
    events_dropped: Family<Rule, Counter>,
    events_unrouted: Counter,
    polls: Family<SourceResult, Counter>,
    poll_success: Family<Source, Gauge<f64, AtomicU64>>,
    webhook_requests: Family<SourceStatus, Counter>,
    deliveries_queued: Family<Destination, Counter>,
    attempts: Family<DestinationOutcome, Counter>,
    attempt_seconds: Family<Destination, Histogram>,
    delivery_seconds: Family<Destination, Histogram>,
    plain_messages: Family<DestinationCause, Counter>,
    breaker_opened: Family<Destination, Counter>,
    moved_to_fallback: Family<Destination, Counter>,
    folded: Family<Destination, Counter>,
    taking: Family<Destination, Gauge>,
    reloads: Family<ResultOnly, Counter>,
    deliveries: Family<DestinationState, Gauge>,
    oldest_owed: Family<Destination, Gauge<f64, AtomicU64>>,
    audit_imbalance: OnceKnown<Gauge>,
    audit_success: OnceKnown<Gauge<f64, AtomicU64>>,
    store_commits: Gauge,
    store_failed_commits: Gauge,
    store_disk_full: Gauge,
    store_damaged: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("halo_relay"),
            events: Family::default(),
            events_dropped: Family::default(),
            events_unrouted: Counter::default(),
            polls: Family::default(),
            poll_success: Family::default(),
            webhook_requests: Family::default(),
            deliveries_queued: Family::default(),
            attempts: Family::default(),
            // 1 ms to 33 s: the longest attempt is bounded at 30 s.
            attempt_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 16))),
            // 1 ms to 3 days.
            delivery_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 15))),
            plain_messages: Family::default(),
            breaker_opened: Family::default(),
            moved_to_fallback: Family::default(),
            folded: Family::default(),
            taking: Family::default(),
            reloads: Family::default(),
            deliveries: Family::default(),
            oldest_owed: Family::default(),
            audit_imbalance: OnceKnown::default(),
            audit_success: OnceKnown::default(),
            store_commits: Gauge::default(),
            store_failed_commits: Gauge::default(),
            store_disk_full: Gauge::default(),
            store_damaged: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("events", "Events handed over by sources: new, or seen before", self.events.clone());
        r.register("events_dropped", "New events that a rule dropped", self.events_dropped.clone());
        r.register("events_unrouted", "New events that no rule matched", self.events_unrouted.clone());
        r.register("polls", "Poll cycles by how they ended", self.polls.clone());
        let help = "When the source was last listed completely, in Unix seconds";
        r.register("poll_last_success_timestamp_seconds", help, self.poll_success.clone());
        r.register("webhook_requests", "Requests to webhook sources by answer", self.webhook_requests.clone());
        r.register("deliveries_queued", "Deliveries made", self.deliveries_queued.clone());
        r.register("attempts", "Attempts by outcome", self.attempts.clone());
        r.register("attempt_seconds", "From sending a message to its answer", self.attempt_seconds.clone());
        r.register("delivery_seconds", "From taking an event in to its delivery", self.delivery_seconds.clone());
        let help = "Small plain messages sent because the full one could not be rendered or was refused";
        r.register("plain_messages", help, self.plain_messages.clone());
        let help = "Times a destination was found to take no messages";
        r.register("breaker_opened", help, self.breaker_opened.clone());
        let help = "1 while the destination takes messages, 0 while its circuit breaker is open";
        r.register("destination_taking", help, self.taking.clone());
        r.register("moved_to_fallback", "Deliveries given to a fallback", self.moved_to_fallback.clone());
        r.register("folded", "Deliveries told by a digest because they were over the limits", self.folded.clone());
        r.register("reloads", "Reloads of the rules file by result", self.reloads.clone());
        r.register("deliveries", "Deliveries that stand in a state now", self.deliveries.clone());
        r.register("oldest_owed_seconds", "Age of the oldest event still owed", self.oldest_owed.clone());
        let help =
            "What the last audit found that does not balance; anything but 0 needs a look; absent until there was one";
        r.register("audit_imbalance", help, self.audit_imbalance.clone());
        let help =
            "When the whole store was last audited, also by an earlier process, in Unix seconds; absent until it was";
        r.register("audit_last_success_timestamp_seconds", help, self.audit_success.clone());
        r.register("store_commits", "Commits since start", self.store_commits.clone());
        r.register("store_failed_commits", "Failed commits since start", self.store_failed_commits.clone());
        let help = "1 while nothing is taken in and nothing starts because the disk is full";
        r.register("store_disk_full", help, self.store_disk_full.clone());
        let help = "1 once the check after an unclean stop has found the store damaged; the log says what to do";
        r.register("store_damaged", help, self.store_damaged.clone());
    }

    pub fn events_taken(&self, source: &SourceName, new: usize, duplicate: usize) {
        for (result, count) in [("new", new), ("duplicate", duplicate)] {
            let label = SourceResult { source: source.to_string(), result };
            self.events.get_or_create_owned(&label).inc_by(count as u64);
        }
    }

    pub fn event_dropped(&self, rule: &RuleName) {
        self.events_dropped.get_or_create_owned(&Rule { rule: rule.to_string() }).inc();
    }

    pub fn event_unrouted(&self) {
        self.events_unrouted.inc();
    }

    pub fn delivery_queued(&self, destination: &DestinationName) {
        self.deliveries_queued.get_or_create_owned(&Destination { destination: destination.to_string() }).inc();
    }

    /// `result` is from a closed set: `ok`, `key_refused`, `throttled`, `unusable`, `unreachable`, `store`.
    pub fn poll_ended(&self, source: &SourceName, result: &'static str) {
        self.polls.get_or_create_owned(&SourceResult { source: source.to_string(), result }).inc();
    }

    pub fn poll_succeeded(&self, source: &SourceName, unix_seconds: f64) {
        self.poll_success.get_or_create_owned(&Source { source: source.to_string() }).set(unix_seconds);
    }

    pub fn webhook_answered(&self, source: &SourceName, status: u16) {
        self.webhook_requests.get_or_create_owned(&SourceStatus { source: source.to_string(), status }).inc();
    }

    pub fn attempt_ended(&self, destination: &DestinationName, outcome: &Outcome, seconds: f64) {
        let label = DestinationOutcome { destination: destination.to_string(), outcome: outcome.name() };
        self.attempts.get_or_create_owned(&label).inc();
        let label = Destination { destination: destination.to_string() };
        self.attempt_seconds.get_or_create_owned(&label).observe(seconds);
    }

    pub fn delivered(&self, destination: &DestinationName, seconds_since_received: f64) {
        let label = Destination { destination: destination.to_string() };
        self.delivery_seconds.get_or_create_owned(&label).observe(seconds_since_received);
    }

    pub fn plain_message(&self, destination: &DestinationName, cause: PlainCause) {
        let label = DestinationCause { destination: destination.to_string(), cause: cause.name() };
        self.plain_messages.get_or_create_owned(&label).inc();
    }

    pub fn breaker_opened(&self, destination: &DestinationName) {
        self.breaker_opened.get_or_create_owned(&Destination { destination: destination.to_string() }).inc();
    }

    pub fn moved_to_fallback(&self, from: &DestinationName, deliveries: usize) {
        let label = Destination { destination: from.to_string() };
        self.moved_to_fallback.get_or_create_owned(&label).inc_by(deliveries as u64);
    }

    pub fn folded(&self, destination: &DestinationName, deliveries: usize) {
        let label = Destination { destination: destination.to_string() };
        self.folded.get_or_create_owned(&label).inc_by(deliveries as u64);
    }

    pub fn reloaded(&self, good: bool) {
        self.reloads.get_or_create_owned(&ResultOnly { result: if good { "ok" } else { "refused" } }).inc();
    }

    pub fn store_health(&self, disk_full: bool, damaged: bool) {
        self.store_disk_full.set(i64::from(disk_full));
        self.store_damaged.set(i64::from(damaged));
    }

    /// So much does not balance, as far as the last audits have looked.
    pub fn audit_found(&self, imbalance: u64) {
        self.audit_imbalance.known().set(i64::try_from(imbalance).unwrap_or(i64::MAX));
    }

    /// An audit of everything went through.
    pub fn audited(&self, unix_seconds: f64) {
        self.audit_success.known().set(unix_seconds);
    }

    /// The text for `/metrics`; what is read from the store is refreshed first.
    pub fn encode<'a>(&self, standing: impl IntoIterator<Item = Standing<'a>>, commits: u64, failed: u64) -> String {
        for standing in standing {
            let destination = standing.destination.to_owned();
            for (state, count) in standing.states {
                let label = DestinationState { destination: destination.clone(), state };
                self.deliveries.get_or_create_owned(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            let label = Destination { destination };
            self.oldest_owed.get_or_create_owned(&label).set(standing.oldest_owed_seconds);
            self.taking.get_or_create_owned(&label).set(i64::from(standing.taking));
        }
        self.store_commits.set(i64::try_from(commits).unwrap_or(i64::MAX));
        self.store_failed_commits.set(i64::try_from(failed).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        let chat = DestinationName::from("chat");
        metrics.events_taken(&SourceName::from("push"), 2, 1);
        metrics.event_dropped(&RuleName::from("scans"));
        metrics.attempt_ended(&chat, &Outcome::Delivered, 0.1);
        metrics.delivered(&chat, 0.2);
        metrics.plain_message(&chat, PlainCause::Render);
        let standing = Standing {
            destination: "chat",
            states: [("ready", 3), ("sending", 0), ("dead", 1), ("held", 2)],
            taking: true,
            oldest_owed_seconds: 9.5,
        };
        let text = metrics.encode([standing], 7, 0);
        for line in [
            "halo_relay_events_total{source=\"push\",result=\"new\"} 2",
            "halo_relay_events_total{source=\"push\",result=\"duplicate\"} 1",
            "halo_relay_events_dropped_total{rule=\"scans\"} 1",
            "halo_relay_attempts_total{destination=\"chat\",outcome=\"delivered\"} 1",
            "halo_relay_plain_messages_total{destination=\"chat\",cause=\"render\"} 1",
            "halo_relay_deliveries{destination=\"chat\",state=\"ready\"} 3",
            "halo_relay_deliveries{destination=\"chat\",state=\"held\"} 2",
            "halo_relay_destination_taking{destination=\"chat\"} 1",
            "halo_relay_oldest_owed_seconds{destination=\"chat\"} 9.5",
            "halo_relay_store_commits 7",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_an_audit_found_is_absent_until_there_was_one() {
        let metrics = Metrics::default();
        let samples = || {
            let text = metrics.encode([], 0, 0);
            text.lines().filter(|line| line.starts_with("halo_relay_audit")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(samples().is_empty(), "{:?}", samples());
        metrics.audit_found(0);
        assert_eq!(samples(), ["halo_relay_audit_imbalance 0"]);
        metrics.audited(1_700_000_000.5);
        metrics.audit_found(3);
        let expected = ["halo_relay_audit_imbalance 3", "halo_relay_audit_last_success_timestamp_seconds 1700000000.5"];
        assert_eq!(samples(), expected);
    }

    /// `docs/METRICS.md` lists what there is, and alerts on nothing else.
    #[test]
    fn the_document_names_every_metric() {
        let document = include_str!("../../docs/METRICS.md");
        let text = with_one_of_each();
        let there: BTreeSet<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(sample_name).collect();
        assert_eq!(
            there.len(),
            include_str!("metrics.rs").matches("r.register(\"").count(),
            "not all are there: {text}"
        );
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
        let listed: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect();
        assert_eq!(listed, there);
        let words = document.split(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
        for name in words.filter(|word| word.starts_with("halo_relay_")) {
            assert!(there.contains(name), "{name}");
        }
    }

    /// What has no sample yet is not named in the text.
    fn with_one_of_each() -> String {
        let metrics = Metrics::default();
        let (source, rule, chat) = (SourceName::from("push"), RuleName::from("scans"), DestinationName::from("chat"));
        metrics.events_taken(&source, 1, 1);
        metrics.event_dropped(&rule);
        metrics.event_unrouted();
        metrics.poll_ended(&source, "ok");
        metrics.poll_succeeded(&source, 1.0);
        metrics.webhook_answered(&source, 202);
        metrics.delivery_queued(&chat);
        metrics.attempt_ended(&chat, &Outcome::Delivered, 1.0);
        metrics.delivered(&chat, 1.0);
        metrics.plain_message(&chat, PlainCause::Refused);
        metrics.breaker_opened(&chat);
        metrics.moved_to_fallback(&chat, 1);
        metrics.folded(&chat, 1);
        metrics.reloaded(true);
        metrics.audit_found(0);
        metrics.audited(1.0);
        let states = [("ready", 0), ("sending", 0), ("dead", 0), ("held", 0)];
        metrics.encode([Standing { destination: "chat", states, taking: true, oldest_owed_seconds: 0.0 }], 1, 0)
    }

    /// `halo_relay_events counter` is shown as `halo_relay_events_total`.
    fn sample_name(typed: &str) -> String {
        match typed.split_once(' ') {
            Some((name, "counter")) => format!("{name}_total"),
            Some((name, "info")) => format!("{name}_info"),
            _ => typed.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}
