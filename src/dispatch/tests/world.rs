//! Stories of lanes in simulated time: outages, refusals, fallbacks, limits.

use super::*;

/// Receivers in simulated time. The store's writer is a real thread, so time stands still until the test lets it pass, in
/// steps, and before each step all that can be done at once is done.
struct World {
    scene: Scene,
    receivers: Receivers,
    /// Ends the task that keeps the clock from running ahead.
    _still: std::sync::mpsc::Sender<()>,
}

/// What every receiver got, in order, with the answer.
#[derive(Clone, Default)]
struct Receivers(Arc<Mutex<Received>>);

type Rule = Box<dyn FnMut(&Got) -> Outcome + Send>;

#[derive(Default)]
struct Received {
    got: Vec<Got>,
    rule: Option<Rule>,
    under_way: usize,
}

#[derive(Clone, Debug)]
struct Got {
    to: &'static str,
    text: String,
    at: Timestamp,
    /// Beside others, itself included.
    under_way: usize,
    outcome: Option<Outcome>,
}

impl Got {
    /// The events that it names, by the numbers in `host-<id>`.
    fn ids(&self) -> Vec<u32> {
        let hosts = self.text.split("host-").skip(1);
        let digits = hosts.map(|rest| rest.split('.').next().unwrap_or_default().parse());
        let mut ids: Vec<_> = digits.filter_map(Result::ok).collect();
        ids.dedup();
        ids
    }

    fn id(&self) -> u32 {
        self.ids().first().copied().unwrap_or_default()
    }

    fn delivered(&self) -> bool {
        self.outcome == Some(Outcome::Delivered)
    }
}

impl Receivers {
    fn sender(&self, to: &'static str, channel: Channel, clock: Clock, latency: Duration) -> Sender {
        let receivers = self.clone();
        let receive = move |message: Message| -> Pin<Box<dyn Future<Output = Report> + Send>> {
            let receivers = receivers.clone();
            Box::pin(async move { receivers.receive(to, &message, clock, latency).await })
        };
        Sender::Function(channel, Box::new(receive))
    }

    async fn receive(&self, to: &'static str, message: &Message, clock: Clock, latency: Duration) -> Report {
        let index = {
            let mut received = self.0.lock().unwrap();
            received.under_way += 1;
            let got = Got { to, text: text(message), at: clock.now(), under_way: received.under_way, outcome: None };
            received.got.push(got);
            received.got.len() - 1
        };
        tokio::time::sleep(latency).await;
        let mut received = self.0.lock().unwrap();
        received.under_way -= 1;
        let got = received.got[index].clone();
        let outcome = received.rule.as_mut().map_or(Outcome::Delivered, |rule| rule(&got));
        received.got[index].outcome = Some(outcome.clone());
        Report::new(outcome, None, "as the test says")
    }

    fn got(&self) -> Vec<Got> {
        self.0.lock().unwrap().got.clone()
    }

    fn got_by(&self, to: &str) -> Vec<Got> {
        self.got().into_iter().filter(|got| got.to == to).collect()
    }

    fn rule(&self, rule: impl FnMut(&Got) -> Outcome + Send + 'static) {
        self.0.lock().unwrap().rule = Some(Box::new(rule));
    }
}

impl World {
    fn new() -> Self {
        let (still, wait) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || wait.recv());
        Self { scene: Scene::without_lanes(), receivers: Receivers::default(), _still: still }
    }

    /// A webhook on default settings that takes 20 ms for each message.
    fn lane(&self, to: &'static str) -> LaneSettings {
        let latency = Duration::from_millis(20);
        settings(to, self.receivers.sender(to, Channel::Webhook, self.scene.clock, latency))
    }

    fn chat(&self, to: &'static str) -> LaneSettings {
        let latency = Duration::from_millis(20);
        LaneSettings { sender: self.receivers.sender(to, Channel::Slack, self.scene.clock, latency), ..self.lane(to) }
    }

    /// Waits until nobody asks the store for anything.
    async fn calm(&self) {
        loop {
            let before = self.scene.store.writer_stats().jobs;
            for _ in 0..2 {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                self.scene.store.counts().await.unwrap();
                self.scene.store.beat(self.scene.clock.now()).await.unwrap();
            }
            if self.scene.store.writer_stats().jobs == before + 2 {
                return;
            }
        }
    }

    async fn pass(&self, span: Duration, step: Duration) {
        let end = self.scene.clock.now().plus(span);
        loop {
            self.calm().await;
            let left = end.since(self.scene.clock.now());
            if left.is_zero() {
                return;
            }
            tokio::time::advance(left.min(step)).await;
        }
    }

    async fn accept(&self, ids: std::ops::Range<u32>, key: impl Fn(u32) -> &'static str, to: &[&str]) {
        let events = ids.map(|id| event(&id.to_string(), key(id), Severity::Info, to));
        self.scene.take_in(events.collect()).await;
    }

    async fn counts(&self, name: &str) -> (u64, u64, u64) {
        let counts = self.scene.counts(name).await;
        (counts.ready + counts.sending, counts.delivered, counts.dead)
    }
}

const STEP: Duration = Duration::from_millis(50);

fn one_key(_: u32) -> &'static str {
    "issue-add"
}

fn some_keys(id: u32) -> &'static str {
    ["issue-add", "issue-close", "firewall-add", "firewall-close"][id as usize % 4]
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_a_handful_of_attempts_and_everything_arrives_in_order() {
    for warm in [false, true] {
        let mut world = World::new();
        world.scene.run([world.lane("hook")], &[]).await;
        if warm {
            world.accept(1_000..1_200, one_key, &["hook"]).await;
            world.pass(Duration::from_secs(4), STEP).await;
            assert_eq!(world.counts("hook").await, (0, 200, 0));
        }
        let before = world.receivers.got().len();
        let until = world.scene.clock.now().plus(Duration::from_secs(15));
        let clock = world.scene.clock;
        world.receivers.rule(move |_| if clock.now() < until { Outcome::Transient } else { Outcome::Delivered });
        world.accept(0..300, some_keys, &["hook"]).await;
        world.pass(Duration::from_secs(15), Duration::from_millis(100)).await;
        let health = world.scene.counts("hook").await.health;
        assert_eq!(health.condition, Condition::Failing);
        world.pass(Duration::from_mins(1), Duration::from_millis(500)).await;
        let got: Vec<_> = world.receivers.got().split_off(before);
        let failed = got.iter().filter(|got| !got.delivered()).count();
        assert!((5..=60).contains(&failed), "{failed} attempts at a dead receiver (warm: {warm})");
        assert_eq!(world.counts("hook").await, (0, 300 + if warm { 200 } else { 0 }, 0));
        // A probe is one, and the oldest.
        let probes = got.iter().filter(|got| !got.delivered()).skip(if warm { 40 } else { 5 });
        assert!(probes.clone().all(|got| got.under_way == 1 && got.id() < 40), "{:?}", probes.collect::<Vec<_>>());
        for key in 0..4 {
            let arrived: Vec<_> =
                got.iter().filter(|got| got.delivered() && got.id() % 4 == key).map(Got::id).collect();
            assert_eq!(arrived.len(), 75);
            let first_starts: Vec<_> = arrived.iter().filter(|id| **id > 160).collect();
            assert!(first_starts.is_sorted(), "{arrived:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_most_urgent_that_waits_is_the_probe() {
    let mut world = World::new();
    world.scene.run([world.chat("chat")], &[]).await;
    let clock = world.scene.clock;
    // Soon after the critical comes: probes that fail many times in a row take turns.
    let until = clock.now().plus(Duration::from_secs(7));
    world.receivers.rule(move |_| if clock.now() < until { Outcome::Transient } else { Outcome::Delivered });
    world.accept(0..20, one_key, &["chat"]).await;
    world.pass(Duration::from_secs(6), STEP).await;
    let severe = event("777", "issue-add", Severity::Critical, &["chat"]);
    world.scene.take_in(vec![severe]).await;
    let before = world.receivers.got().len();
    world.pass(Duration::from_mins(1), STEP).await;
    let after = &world.receivers.got()[before..];
    // One may have been claimed just before it came.
    assert!(after[..2].iter().any(|got| got.id() == 777), "{:?}", after.iter().map(Got::id).collect::<Vec<_>>());
    let arrived: Vec<_> = after.iter().filter(|got| got.delivered()).map(Got::id).collect();
    assert_eq!(arrived.len(), 21);
    let at = arrived.iter().position(|id| *id == 777);
    assert!(at <= Some(1), "{arrived:?}");
    assert!(arrived.iter().filter(|id| **id != 777).is_sorted(), "{arrived:?}");
}

fn to_mail() -> Fallback {
    Fallback { to: "mail".into(), after: Duration::from_mins(5) }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_parks_tells_once_moves_at_once_and_is_tried_again() {
    let mut world = World::new();
    let lanes = [LaneSettings { fallback: Some(to_mail()), ..world.lane("hook") }, world.chat("mail")];
    world.scene.run(lanes, &[]).await;
    world.receivers.rule(|got| if got.to == "hook" { Outcome::RefusedDestination } else { Outcome::Delivered });
    world.accept(0..30, some_keys, &["hook"]).await;
    world.accept(30..40, some_keys, &["hook", "mail"]).await;
    world.pass(Duration::from_secs(20), STEP).await;
    let mail = world.receivers.got_by("mail");
    let notices: Vec<_> = mail.iter().filter(|got| got.text.contains("NOTICE")).collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].text.contains("as the test says") && notices[0].text.contains("hook"), "{notices:?}");
    let told: Vec<_> = mail.iter().filter(|got| !got.ids().is_empty()).collect();
    let mut ids: Vec<_> = told.iter().map(|got| got.id()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<_>>(), "each once");
    let detours =
        told.iter().filter(|got| got.text.contains("meant for hook") || got.text.contains("as the test says"));
    assert_eq!(detours.count(), 30, "{}", told[0].text);
    // Those that mail is owed itself wait; hook was asked once.
    assert_eq!(world.receivers.got_by("hook").len(), 1);
    assert_eq!(world.counts("hook").await, (10, 31, 0), "with the notice");
    // What comes now goes the same way, and now and then one is the probe.
    for round in 0..10 {
        world.accept(100 + round..101 + round, one_key, &["hook"]).await;
        world.pass(Duration::from_mins(12), Duration::from_secs(5)).await;
    }
    let probes = world.receivers.got_by("hook").len();
    assert!((3..=12).contains(&probes), "{probes} probes in two hours");
    assert_eq!(world.counts("hook").await.0, 10);
    // Mended, and reloaded.
    world.receivers.rule(|_| Outcome::Delivered);
    let lanes = [LaneSettings { fallback: Some(to_mail()), ..world.lane("hook") }, world.chat("mail")];
    world.scene.run(lanes, &[]).await;
    world.pass(Duration::from_secs(20), STEP).await;
    assert_eq!(world.counts("hook").await.0, 0);
    assert_eq!(world.scene.counts("hook").await.health.condition, Condition::Taking);
    let notices = world.receivers.got_by("mail").iter().filter(|got| got.text.contains("NOTICE")).count();
    assert_eq!(notices, 1, "of one refusal");
}

/// Where all that waits is moved away, something must stay behind to find out whether the destination was mended.
#[tokio::test(start_paused = true)]
async fn a_refusing_destination_with_a_fallback_comes_back() {
    let mut world = World::new();
    let lanes = |world: &World| [LaneSettings { fallback: Some(to_mail()), ..world.lane("hook") }, world.chat("mail")];
    world.scene.run(lanes(&world), &[]).await;
    world.receivers.rule(|got| if got.to == "hook" { Outcome::RefusedDestination } else { Outcome::Delivered });
    world.accept(0..5, one_key, &["hook"]).await;
    world.pass(Duration::from_secs(5), STEP).await;
    assert_eq!(world.counts("hook").await.0, 0, "all were moved");
    world.receivers.rule(|_| Outcome::Delivered);
    world.scene.run(lanes(&world), &[]).await;
    world.accept(5..8, one_key, &["hook"]).await;
    world.pass(Duration::from_secs(5), STEP).await;
    assert_eq!(world.scene.counts("hook").await.health.condition, Condition::Taking);
    let own: Vec<_> = world.receivers.got_by("hook").iter().filter(|got| got.delivered()).map(Got::id).collect();
    assert!(own.contains(&5), "{own:?}");
}

#[tokio::test(start_paused = true)]
async fn what_fails_too_long_goes_to_the_fallback_each_once_probes_too() {
    let mut world = World::new();
    let lanes = [LaneSettings { fallback: Some(to_mail()), ..world.lane("hook") }, world.chat("mail")];
    world.scene.run(lanes, &[]).await;
    world.receivers.rule(|got| if got.to == "hook" { Outcome::Transient } else { Outcome::Delivered });
    for minute in 0..10 {
        world.accept(minute * 3..minute * 3 + 3, some_keys, &["hook"]).await;
        world.pass(Duration::from_mins(1), Duration::from_millis(500)).await;
    }
    // Ten minutes after the first: those of the first five minutes have gone, also those that were probes.
    let told: Vec<_> = world.receivers.got_by("mail").iter().map(Got::id).collect();
    for id in 0..12 {
        assert!(told.contains(&id), "{id} waits for hook: {told:?}");
    }
    assert!(told.iter().all(|id| *id < 18), "too early: {told:?}");
    world.receivers.rule(|_| Outcome::Delivered);
    world.pass(Duration::from_mins(3), Duration::from_millis(500)).await;
    assert_eq!(world.counts("hook").await, (0, 30, 0));
    let mut all: Vec<_> = world.receivers.got().iter().filter(|got| got.delivered()).map(Got::id).collect();
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<_>>(), "each once");
}

/// A gateway whose backend is gone, and a vendor that asks for a day: neither answer is a failure, and nothing arrives.
#[tokio::test(start_paused = true)]
async fn a_destination_that_only_asks_for_pauses_is_an_outage_for_its_fallback() {
    for pause in [2, 24 * 3_600] {
        let mut world = World::new();
        let lanes = [LaneSettings { fallback: Some(to_mail()), ..world.lane("hook") }, world.chat("mail")];
        world.scene.run(lanes, &[]).await;
        world.receivers.rule(move |got| if got.to == "hook" { throttled(pause * 1_000) } else { Outcome::Delivered });
        world.accept(0..30, some_keys, &["hook"]).await;
        world.pass(Duration::from_secs(295), Duration::from_secs(1)).await;
        assert_eq!(world.receivers.got_by("mail").len(), 0, "too early");
        world.pass(Duration::from_mins(2), Duration::from_secs(1)).await;
        let mut told: Vec<_> = world.receivers.got_by("mail").iter().map(Got::id).collect();
        told.sort_unstable();
        assert_eq!(told, (0..30).collect::<Vec<_>>(), "each once, with pauses of {pause} s");
        assert_eq!(world.counts("hook").await, (0, 30, 0));
        let text = &world.receivers.got_by("mail")[0].text;
        assert!(text.contains("meant for hook") && text.contains("as the test says"), "{text}");
    }
}

/// One that pauses now and then, and takes messages between, is only slow.
#[tokio::test(start_paused = true)]
async fn a_destination_that_pauses_and_gets_there_keeps_its_messages() {
    let mut world = World::new();
    let lanes = [LaneSettings { fallback: Some(to_mail()), ..world.chat("chat") }, world.chat("mail")];
    world.scene.run(lanes, &[]).await;
    let mut turn = 0;
    world.receivers.rule(move |_| {
        turn += 1;
        if turn % 3 == 0 { Outcome::Delivered } else { throttled(30_000) }
    });
    world.accept(0..20, one_key, &["chat"]).await;
    world.pass(Duration::from_mins(25), Duration::from_secs(1)).await;
    assert_eq!(world.counts("chat").await, (0, 20, 0));
    assert_eq!(world.receivers.got_by("mail").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_fails_alone_is_given_up_and_its_lane_goes_on() {
    let mut world = World::new();
    world.scene.run([world.chat("chat")], &[]).await;
    world.receivers.rule(|got| if got.id() == 3 { Outcome::Transient } else { Outcome::Delivered });
    for id in 0..40 {
        world.accept(id..id + 1, one_key, &["chat"]).await;
        world.accept(100 + id..101 + id, |_| "firewall-add", &["chat"]).await;
        world.pass(Duration::from_mins(2), Duration::from_secs(1)).await;
    }
    assert_eq!(world.counts("chat").await, (0, 79, 1));
    let dead = world.scene.store.dead(DeadFilter::default(), 9).await.unwrap();
    let reason = dead[0].reason.as_deref().unwrap_or_default();
    assert!(reason.starts_with("failed 10 times while other messages were taken"), "{reason}");
    let poison = world.receivers.got().iter().filter(|got| got.id() == 3).count();
    assert!((10..=25).contains(&poison), "{poison}");
    let lane: Vec<_> =
        world.receivers.got().iter().filter(|got| got.delivered() && got.id() < 100).map(Got::id).collect();
    assert!(lane.is_sorted(), "{lane:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shared_limit_holds_and_no_lane_starves() {
    let mut world = World::new();
    let shared = |settings| LaneSettings { shared_limits: vec!["all".into()], ..settings };
    world.scene.run([shared(world.lane("one")), shared(world.lane("two"))], &[("all", "4/1s")]).await;
    world.accept(0..40, some_keys, &["one", "two"]).await;
    world.pass(Duration::from_secs(12), Duration::from_millis(10)).await;
    let mut starts: Vec<_> = world.receivers.got().iter().map(|got| got.at.as_millis()).collect();
    starts.sort_unstable();
    assert!(starts.len() >= 30, "{} in twelve seconds", starts.len());
    for window in starts.windows(5) {
        assert!(window[4] - window[0] >= 1_000, "five within {} ms", window[4] - window[0]);
    }
    for lane in ["one", "two"] {
        let got = world.receivers.got_by(lane).len();
        assert!(got >= 8, "{lane} got {got} of {}", starts.len());
    }
    world.pass(Duration::from_secs(20), STEP).await;
    assert_eq!((world.counts("one").await, world.counts("two").await), ((0, 40, 0), (0, 40, 0)));
}

/// What is under way while a reload changes the windows counts under the new ones, too.
#[tokio::test(start_paused = true)]
async fn a_shared_limit_that_changes_forgets_nothing_under_way() {
    let mut world = World::new();
    let lanes = |world: &World| {
        ["one", "two"].map(|name| LaneSettings { shared_limits: vec!["all".into()], ..world.lane(name) })
    };
    world.scene.run(lanes(&world), &[("all", "8/1s")]).await;
    world.accept(0..60, some_keys, &["one", "two"]).await;
    for windows in ["6/3s", "4/2s", "5/3s"] {
        // In the middle of answers.
        world.pass(Duration::from_millis(2_010), Duration::from_millis(10)).await;
        world.scene.run(lanes(&world), &[("all", windows)]).await;
        let since = world.scene.clock.now();
        world.pass(Duration::from_secs(9), Duration::from_millis(10)).await;
        let (count, span) = windows.split_once('/').unwrap();
        let (count, span) = (count.parse::<usize>().unwrap(), humantime::parse_duration(span).unwrap());
        let got = world.receivers.got();
        for from in got.iter().filter(|got| got.at >= since) {
            let held = got.iter().filter(|other| other.at <= from.at && from.at.since(other.at) < span).count();
            assert!(held <= count, "{held} within {windows}");
        }
    }
}

/// `calm` would never end if idle lanes woke each other.
#[tokio::test(start_paused = true)]
async fn idle_lanes_with_a_shared_limit_are_idle() {
    let mut world = World::new();
    let shared = |settings| LaneSettings { shared_limits: vec!["all".into()], ..settings };
    let lanes = ["one", "two", "three"].map(|name| shared(world.lane(name)));
    world.scene.run(lanes, &[("all", "4/1s")]).await;
    world.accept(0..9, some_keys, &["one", "two", "three"]).await;
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
        world.scene.store.beat(world.scene.clock.now()).await.unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert_eq!(world.counts("three").await, (0, 9, 0));
    let before = world.scene.store.writer_stats().jobs;
    for _ in 0..200 {
        tokio::task::yield_now().await;
        world.scene.store.beat(world.scene.clock.now()).await.unwrap();
    }
    let more = world.scene.store.writer_stats().jobs - before - 200;
    assert!(more < 20, "{more} turns of lanes that have nothing to do");
}

#[tokio::test(start_paused = true)]
async fn what_a_limit_would_hold_up_is_told_by_digests() {
    let mut world = World::new();
    let overflow = Overflow::Digest { after: Duration::from_secs(20) };
    world.scene.run([LaneSettings { limits: windows(&["1/1s"]), overflow, ..world.chat("chat") }], &[]).await;
    world.accept(0..300, one_key, &["chat"]).await;
    world.scene.take_in(vec![event("900", "issue-add", Severity::Critical, &["chat"])]).await;
    world.pass(Duration::from_mins(1), Duration::from_millis(100)).await;
    let got = world.receivers.got();
    assert!(got.len() <= 30, "{} messages", got.len());
    let counts = world.scene.counts("chat").await;
    assert_eq!((counts.ready, counts.sending, counts.dead), (0, 0, 0));
    let single = got.iter().filter(|got| got.ids().len() == 1).count();
    assert!((15..=25).contains(&single), "{single} told one by one");
    assert_eq!(counts.folded + single as u64, 301);
    assert_eq!(counts.folded + counts.delivered, 301 + (got.len() - single) as u64);
    let number = counts.folded.to_string();
    assert!(got.iter().any(|got| got.text.contains(&number)), "no digest of {number}");
    for pair in got.windows(2) {
        assert!(pair[1].at.since(pair[0].at) >= Duration::from_secs(1), "faster than the limit");
    }
}

/// Where a window is longer than digests may take to be told, the first messages must not use it all up.
#[tokio::test(start_paused = true)]
async fn digests_and_what_is_urgent_find_room_in_a_long_window() {
    let mut world = World::new();
    let overflow = Overflow::Digest { after: Duration::from_mins(2) };
    let limits = windows(&["1/1s", "10/1h"]);
    world.scene.run([LaneSettings { limits, overflow, ..world.chat("chat") }], &[]).await;
    world.accept(0..300, some_keys, &["chat"]).await;
    world.pass(Duration::from_secs(30), Duration::from_millis(100)).await;
    let counts = world.scene.counts("chat").await;
    assert_eq!((counts.ready, counts.sending), (0, 0), "all is told within half a minute");
    assert!(world.receivers.got().len() < 10, "{} messages", world.receivers.got().len());
    world.scene.take_in(vec![event("900", "issue-add", Severity::Critical, &["chat"])]).await;
    world.pass(Duration::from_secs(3), Duration::from_millis(100)).await;
    assert_eq!(world.receivers.got().last().map(Got::id), Some(900), "it does not wait for the window");
}

#[tokio::test(start_paused = true)]
async fn a_reload_probes_at_once_and_changes_nothing_else() {
    let mut world = World::new();
    world.scene.run([world.chat("chat")], &[]).await;
    world.receivers.rule(|_| Outcome::RefusedDestination);
    world.accept(0..3, one_key, &["chat"]).await;
    world.pass(Duration::from_secs(5), STEP).await;
    assert_eq!(world.receivers.got().len(), 1);
    world.scene.run([world.chat("chat")], &[]).await;
    world.pass(Duration::from_secs(5), STEP).await;
    assert_eq!(world.receivers.got().len(), 2, "one probe");
    assert_eq!(world.scene.counts("chat").await.health.condition, Condition::Refusing);
    world.receivers.rule(|_| Outcome::Delivered);
    world.scene.run([world.chat("chat")], &[]).await;
    world.pass(Duration::from_secs(5), STEP).await;
    assert_eq!(world.counts("chat").await, (0, 3, 0));
    let all: Vec<_> = world.receivers.got().iter().map(Got::id).collect();
    assert_eq!(all, [0, 0, 0, 1, 2], "the oldest is the probe, and then all go in order");
}

/// Intake goes on while the lanes are stopped: what they were given as it was made is either sent or ready again.
#[tokio::test]
async fn a_stop_loses_nothing_of_what_was_offered() {
    for round in 0..10 {
        let mut scene = Scene::without_lanes();
        let receivers = Receivers::default();
        let lane = settings("hook", receivers.sender("hook", Channel::Webhook, scene.clock, Duration::from_millis(1)));
        scene.run([lane], &[]).await;
        let (store, clock) = (scene.store.clone(), scene.clock);
        let intake = tokio::spawn(async move {
            for id in 0..100 {
                let event = event(&id.to_string(), "issue-add", Severity::Info, &["hook"]);
                store.accept(&SourceName::from("test"), [event].into(), clock.now()).await.unwrap();
            }
        });
        while receivers.got().len() < 5 * round {
            tokio::task::yield_now().await;
        }
        timeout(PATIENCE, scene.dispatcher.drain()).await.expect("an end");
        let sent = receivers.got().len() as u64;
        intake.await.unwrap();
        let counts = scene.store.counts().await.unwrap().remove(0);
        assert_eq!((counts.sending, counts.delivered, counts.ready), (0, sent, 100 - sent));
    }
}
