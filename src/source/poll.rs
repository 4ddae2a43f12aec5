//! The polling loop: lists all events again and again, and hands those not seen yet to intake, page by page.
//!
//! The API cannot be asked for what is new, so the set of seen ids is the only cursor. It moves with the commit: a page
//! is asked for only when intake has the page before it on disk, and what an error or a crash cuts off is simply listed
//! again. The first poll of a new store is the *baseline*: what is there already is remembered instead of sent
//! ([`FirstRun`]); it is repeated until it finds nothing new, and only then recorded as done.
//!
//! One line per poll says what came of it. A failure is logged when it changes, and every ten minutes while it lasts.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::complaint::Complaint;
use super::event_api::{ApiError, EventApi};
use super::walk::{Answer, Ending, Next, Walk};
use crate::backoff::{self, Backoff};
use crate::intake::{Intake, Unavailable};
use crate::model::event::EventError;
use crate::model::{Event, EventId, Secret, SourceName, Timestamp};

/// What the first poll of a new store does with events that are already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstRun {
    /// Remember them, send nothing.
    Skip,
    /// Send them all.
    All,
    /// Send those that happened within this span before now; remember the others, and those without a time.
    Since(Duration),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub name: SourceName,
    /// Without a trailing slash; `https`, or `http` to loopback.
    pub base_url: String,
    pub api_key: Secret,
    /// From the end of one poll to the start of the next, before jitter.
    pub every: Duration,
    pub first_run: FirstRun,
}

/// How polling goes, for status and metrics. Holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollStatus {
    /// When the last complete poll ended.
    pub last_success: Option<Timestamp>,
    /// Why the last poll failed; `None` while all is well.
    pub last_error: Option<String>,
    pub consecutive_failures: u32,
    /// How many events the last complete poll listed.
    pub last_listed: Option<usize>,
}

/// One polled source. Knows nothing of rules or destinations.
pub struct Poller {
    settings: Settings,
    api: EventApi,
    intake: Intake,
    status: watch::Sender<PollStatus>,
    /// What was last said of a failing poll, of records that are no events, and of a list that cannot be read whole.
    failing: Complaint,
    malformed: Complaint,
    incomplete: Complaint,
}

/// After a failed poll; where polls are closer than its base, that is the base.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));
/// A server that asks for more is asked again all the same: it may have meant milliseconds.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// Baseline walks until one finds nothing new. A list that still shifts after these is as good as it gets.
const BASELINE_WALKS_MAX: u32 = 3;
/// Events in one transaction, however long a page the server gives.
const BATCH_MAX: usize = 1000;

impl Poller {
    /// `api` has been made from the same settings.
    pub fn new(settings: Settings, api: EventApi, intake: Intake) -> Self {
        Self {
            settings,
            api,
            intake,
            status: watch::Sender::default(),
            failing: Complaint::default(),
            malformed: Complaint::default(),
            incomplete: Complaint::default(),
        }
    }

    pub fn status(&self) -> watch::Receiver<PollStatus> {
        self.status.subscribe()
    }

    /// Polls at once and then at intervals until `shutdown`. Safe to drop at any point: a page is either committed or
    /// listed again.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let polled = tokio::select! {
                () = shutdown.cancelled() => return,
                polled = self.poll() => polled,
            };
            let wait = match polled {
                Ok(tally) => self.succeeded(&tally),
                Err(failure) => self.failed(&failure),
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn poll(&self) -> Result<Tally, Failure> {
        self.intake.ready()?;
        if self.intake.baseline_done(&self.settings.name).await? {
            return self.walk(None).await;
        }
        let mut tally = Tally::default();
        for _ in 0..BASELINE_WALKS_MAX {
            let walked = self.walk(Some(self.settings.first_run)).await?;
            let found = walked.new + walked.remembered;
            tally = walked.after(&tally);
            if found == 0 {
                break;
            }
        }
        self.intake.set_baseline_done(&self.settings.name).await?;
        tracing::info!(
            source.name = %self.settings.name,
            remembered = tally.remembered,
            new = tally.new,
            "first poll of source {} done: {} events that were there already are remembered and not sent",
            self.settings.name,
            tally.remembered,
        );
        Ok(tally)
    }

    /// Lists everything once. `first_run` is `None` once the baseline is done.
    async fn walk(&self, first_run: Option<FirstRun>) -> Result<Tally, Failure> {
        let started = self.intake.clock().wall();
        let mut walk = Walk::new();
        let mut tally = Tally::default();
        let mut request = walk.first();
        loop {
            let page = self.api.list(request, self.intake.clock().wall()).await?;
            let records: Vec<_> = page.records.iter().map(Record::read).collect();
            let names: Vec<_> = records.iter().map(Record::name).collect();
            let turn = walk.answered(Answer { names: &names, total: page.total, limit: page.limit });
            let fresh = records.into_iter().zip(turn.fresh).filter_map(|(record, fresh)| fresh.then_some(record));
            let events = tally.sort_out(fresh);
            self.take(events, &mut tally, |event| is_sent(event, first_run, started)).await?;
            match turn.next {
                Next::Ask(next) => request = next,
                Next::End(ending) => {
                    tally.listed = walk.listed();
                    tally.ending = Some(ending);
                    return Ok(tally);
                }
            }
        }
    }

    /// Commits what of these events is new.
    async fn take(
        &self,
        mut events: Vec<Event>,
        tally: &mut Tally,
        is_sent: impl Fn(&Event) -> bool,
    ) -> Result<(), Failure> {
        let source = &self.settings.name;
        let unseen = self.intake.unseen(events.iter().map(|event| event.id.clone()).collect()).await?;
        events.retain(|event| unseen.contains(&event.id));
        let (mut sent, old): (Vec<_>, Vec<_>) = events.into_iter().partition(is_sent);
        if !old.is_empty() {
            let ids: Vec<EventId> = old.into_iter().map(|event| event.id).collect();
            tally.remembered += self.intake.remember(ids).await?;
        }
        while !sent.is_empty() {
            let rest = sent.split_off(sent.len().min(BATCH_MAX));
            let accepted = self.intake.accept(source, sent).await?;
            tally.new += accepted.new;
            tally.queued += accepted.queued;
            sent = rest;
        }
        Ok(())
    }

    /// Reports a complete poll and says how long to wait for the next.
    fn succeeded(&mut self, tally: &Tally) -> Duration {
        let now = self.intake.clock().now();
        let name = &self.settings.name;
        let failures = self.status.borrow().consecutive_failures;
        if self.failing.clear() {
            tracing::info!(source.name = %name, failures, "source {name} can be polled again (failures before: {failures})");
        }
        tracing::info!(
            source.name = %name,
            listed = tally.listed,
            new = tally.new,
            already_seen = tally.already_seen(),
            queued = tally.queued,
            skipped = tally.malformed,
            "polled source {name}: {} new of {} listed",
            tally.new,
            tally.listed,
        );
        match &tally.first_error {
            Some(error) => {
                // The number belongs to the line, not to what makes it worth repeating.
                if self.malformed.is_due(&error.to_string(), now) {
                    let skipped = tally.malformed;
                    tracing::warn!(source.name = %name, skipped, "{skipped} records of source {name} are not events: {error}");
                }
            }
            None => _ = self.malformed.clear(),
        }
        match tally.ending.and_then(Ending::complaint) {
            Some(complaint) => {
                if self.incomplete.is_due(complaint, now) {
                    tracing::warn!(source.name = %name, "source {name}: {complaint}");
                }
            }
            None => _ = self.incomplete.clear(),
        }
        let metrics = self.intake.metrics();
        metrics.poll_ended(name, "ok");
        metrics.poll_succeeded(name, Duration::from_millis(now.as_millis().unsigned_abs()).as_secs_f64());
        self.status.send_replace(PollStatus {
            last_success: Some(now),
            last_error: None,
            consecutive_failures: 0,
            last_listed: Some(tally.listed),
        });
        backoff::jittered(self.settings.every, backoff::random())
    }

    /// Reports a failed poll and says how long to wait before the next.
    fn failed(&mut self, failure: &Failure) -> Duration {
        let failures = self.status.borrow().consecutive_failures.saturating_add(1);
        let wait = wait_after(failure, failures, self.settings.every, backoff::random());
        self.intake.metrics().poll_ended(&self.settings.name, failure.kind());
        let text = failure.to_string();
        if self.failing.is_due(&text, self.intake.clock().now()) {
            let name = &self.settings.name;
            if matches!(failure, Failure::Api(ApiError::KeyRefused { .. })) {
                tracing::error!(
                    source.name = %name,
                    failures,
                    "source {name} gets no events: {text}; make a new key in the dashboard, under /user/account/api \
                     (https://app.halosecurity.com/user/account/api), and put it where sources.{name}.api_key points",
                );
            } else {
                tracing::warn!(source.name = %name, failures, ?wait, "failed to poll source {name}: {text}; trying again");
            }
        }
        self.status.send_modify(|status| {
            status.last_error = Some(text);
            status.consecutive_failures = failures;
        });
        wait
    }
}

/// What one walk found.
#[derive(Clone, Debug, Default)]
struct Tally {
    listed: usize,
    /// Handed to intake and new to it.
    new: usize,
    /// Deliveries made of them.
    queued: usize,
    /// Marked as seen by the baseline, not sent.
    remembered: usize,
    malformed: usize,
    first_error: Option<EventError>,
    ending: Option<Ending>,
}

impl Tally {
    /// Counts the records that are no events, returns the others.
    fn sort_out(&mut self, records: impl Iterator<Item = Record>) -> Vec<Event> {
        let mut events = Vec::new();
        for record in records {
            match record {
                Record::Event(event) => events.push(*event),
                Record::Malformed { error, .. } => {
                    self.malformed += 1;
                    self.first_error.get_or_insert(error);
                }
            }
        }
        events
    }

    /// What the whole baseline found, `earlier` being its walks before this one.
    fn after(self, earlier: &Self) -> Self {
        Self {
            new: self.new + earlier.new,
            queued: self.queued + earlier.queued,
            remembered: self.remembered + earlier.remembered,
            ..self
        }
    }

    fn already_seen(&self) -> usize {
        self.listed.saturating_sub(self.new + self.remembered + self.malformed)
    }
}

/// An entry of the list. One that cannot be read costs itself only, not the page.
enum Record {
    Event(Box<Event>),
    Malformed { text: String, error: EventError },
}

impl Record {
    fn read(value: &Value) -> Self {
        match Event::from_value(value.clone()) {
            Ok(event) => Self::Event(Box::new(event)),
            Err(error) => Self::Malformed { text: value.to_string(), error },
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Event(event) => event.id.as_str().to_owned(),
            Self::Malformed { text, .. } => text.clone(),
        }
    }
}

/// Whether an event that the store does not know is sent, rather than only remembered.
fn is_sent(event: &Event, first_run: Option<FirstRun>, now: Timestamp) -> bool {
    match first_run {
        None | Some(FirstRun::All) => true,
        Some(FirstRun::Skip) => false,
        Some(FirstRun::Since(span)) => event.time.is_some_and(|time| time >= now.minus(span)),
    }
}

/// Why a poll ended early.
#[derive(Clone, Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("cannot take events in: {0}")]
    Store(Unavailable),
}

impl Failure {
    /// The label of [`Metrics::poll_ended`](crate::telemetry::Metrics::poll_ended).
    const fn kind(&self) -> &'static str {
        match self {
            Self::Api(ApiError::KeyRefused { .. }) => "key_refused",
            Self::Api(ApiError::Throttled { .. }) => "throttled",
            Self::Api(ApiError::Unreachable { .. }) => "unreachable",
            Self::Api(ApiError::Unusable { .. }) => "unusable",
            Self::Store(_) => "store",
        }
    }
}

impl From<Unavailable> for Failure {
    fn from(unavailable: Unavailable) -> Self {
        Self::Store(unavailable)
    }
}

/// The wait after a failure, the latest of `failures` in a row: what the other side asks for, but never less than
/// the backoff. `random` is from 0 to 1.
fn wait_after(failure: &Failure, failures: u32, every: Duration, random: f64) -> Duration {
    let asked = match failure {
        Failure::Api(ApiError::Throttled { retry_after } | ApiError::Unusable { retry_after, .. }) => *retry_after,
        Failure::Api(ApiError::KeyRefused { .. } | ApiError::Unreachable { .. }) => None,
        // Our own store has no crowd before it.
        Failure::Store(unavailable) => return unavailable.retry_after.clamp(Backoff::FLOOR, BACKOFF.cap),
    };
    let drawn = Backoff { base: BACKOFF.base.min(every), ..BACKOFF }.wait(failures, random);
    // The jitter only adds: coming early would break the promise.
    asked.map_or(drawn, |asked| asked.min(RETRY_AFTER_MAX).mul_f64(1.0 + random / 10.0).max(drawn))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn minute(text: &str) -> Timestamp {
        Timestamp::from_api(text).unwrap()
    }

    #[test]
    fn what_the_first_run_sends() {
        let now = minute("2026-11-23 09:00");
        let at = |time: Value| Event::from_value(json!({"event_id": "1", "key": "k", "date_created": time})).unwrap();
        let old = at(json!("2026-11-22 08:59"));
        let edge = at(json!("2026-11-22 09:00"));
        let future = at(json!("2026-11-23 09:05"));
        let timeless = at(json!("0000-00-00 00:00"));
        let day = FirstRun::Since(seconds(86_400));
        let cases = [
            (None, [true, true, true, true]),
            (Some(FirstRun::All), [true, true, true, true]),
            (Some(FirstRun::Skip), [false, false, false, false]),
            (Some(day), [false, true, true, false]),
            (Some(FirstRun::Since(Duration::MAX)), [true, true, true, false]),
        ];
        for (first_run, expected) in cases {
            let sent = [&old, &edge, &future, &timeless].map(|event| is_sent(event, first_run, now));
            assert_eq!(sent, expected, "{first_run:?}");
        }
    }

    #[test]
    fn waits() {
        let throttled = |after: Option<u64>| Failure::Api(ApiError::Throttled { retry_after: after.map(seconds) });
        let unusable = |after: Option<u64>| {
            Failure::Api(ApiError::Unusable { what: String::new(), retry_after: after.map(seconds) })
        };
        let refused = Failure::Api(ApiError::KeyRefused { status: 401 });
        let store = |after| Failure::Store(Unavailable { reason: String::new(), retry_after: after });
        let cases = [
            (unusable(None), 1, 1.0, seconds(5)),
            (unusable(None), 3, 0.5, seconds(10)),
            (unusable(None), 99, 1.0, seconds(300)),
            (unusable(Some(60)), 1, 0.0, seconds(60)),
            (refused, 99, 1.0, seconds(300)),
            (throttled(None), 2, 1.0, seconds(10)),
            (throttled(Some(60)), 1, 0.0, seconds(60)),
            (throttled(Some(60)), 1, 1.0, seconds(66)),
            (throttled(Some(0)), 9, 1.0, seconds(300)),
            (throttled(Some(u64::MAX)), 1, 0.0, RETRY_AFTER_MAX),
            (store(seconds(7)), 99, 1.0, seconds(7)),
            (store(Duration::ZERO), 1, 1.0, Backoff::FLOOR),
        ];
        for (failure, failures, random, expected) in cases {
            let wait = wait_after(&failure, failures, seconds(60), random);
            assert_eq!(wait, expected, "{failure:?}, {failures}, {random}");
        }
        assert_eq!(wait_after(&unusable(None), 1, seconds(1), 1.0), seconds(1));
    }

    #[test]
    fn counting() {
        let mut tally = Tally { listed: 5, new: 1, ..Tally::default() };
        let records = [json!({"event_id": "1", "key": "k"}), json!(7), json!({"event_id": "2"})];
        let events = tally.sort_out(records.iter().map(Record::read));
        assert_eq!((events.len(), tally.malformed), (1, 2));
        assert_eq!(tally.first_error, Some(EventError::NotAnObject("a number")));
        assert_eq!(tally.already_seen(), 2);
        let second = Tally { listed: 6, remembered: 1, ..Tally::default() }.after(&Tally { remembered: 4, ..tally });
        assert_eq!((second.listed, second.new, second.remembered, second.malformed), (6, 1, 5, 0));
    }
}
