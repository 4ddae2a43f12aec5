//! Random histories on a real store, checked after each step against what must always hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::model::delivery::{LaneKey, State};

const DESTINATIONS: [&str; 2] = ["chat", "mail"];
const KEYS: [&str; 2] = ["issue-add", "issue-close"];
const SEVERITIES: [Severity; 3] = [Severity::Info, Severity::High, Severity::Critical];
/// Of each lane.
const SLOTS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Accept {
        key: usize,
        severity: usize,
        to: usize,
        number: usize,
        batch: Option<u32>,
    },
    /// Answers to some of what is under way; then claims as many as there are slots for.
    Turn {
        lane: usize,
        answers: Vec<Answer>,
        claim: bool,
        probe: bool,
    },
    Crash,
    Pass {
        seconds: i64,
    },
    Fold {
        lane: usize,
        keep: usize,
    },
    Move {
        before: u64,
    },
    Notify,
    Retry,
    Drop,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Delivered,
    Failed,
    Unknown,
    Throttled,
    Plain,
    Dead,
    Fallback,
    NotStarted,
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::Delivered),
        2 => Just(Answer::Failed),
        1 => Just(Answer::Unknown),
        1 => Just(Answer::Throttled),
        1 => Just(Answer::Plain),
        1 => Just(Answer::Dead),
        1 => Just(Answer::Fallback),
        1 => Just(Answer::NotStarted),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let batch = prop_oneof![3 => Just(None), 1 => (1_u32..4).prop_map(Some)];
    prop_oneof![
        6 => (0..2_usize, 0..3_usize, 1..4_usize, 1..5_usize, batch)
            .prop_map(|(key, severity, to, number, batch)| Step::Accept { key, severity, to, number, batch }),
        8 => (0..2_usize, prop::collection::vec(answers(), 0..4), prop::bool::weighted(0.9), prop::bool::weighted(0.1))
            .prop_map(|(lane, answers, claim, probe)| Step::Turn { lane, answers, claim, probe }),
        1 => Just(Step::Crash),
        2 => prop_oneof![4 => 1..60_i64, 1 => -90..0_i64].prop_map(|seconds| Step::Pass { seconds }),
        2 => (0..2_usize, 0..6_usize).prop_map(|(lane, keep)| Step::Fold { lane, keep }),
        1 => (0..60_u64).prop_map(|before| Step::Move { before }),
        1 => Just(Step::Notify),
        1 => Just(Step::Retry),
        1 => Just(Step::Drop),
    ]
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    kind: i64,
    event: Option<i64>,
    destination: i64,
    via: i64,
    lane: i64,
    state: State,
    tries: i64,
    may_repeat: bool,
    digest: Option<i64>,
}

/// What happened, as the world outside saw it.
struct World {
    scene: Scene,
    lanes: Vec<Subscription>,
    /// Under way, of each lane.
    pending: [Vec<Claimed>; 2],
    received: [u64; 2],
    now: Timestamp,
    accepted: BTreeSet<(String, i64)>,
    next_event: usize,
    /// Deliveries of which some attempt may have arrived.
    doubtful: BTreeSet<i64>,
    /// Events that arrived: how often by an attempt that was not marked.
    arrived: HashMap<(i64, i64), u32>,
    /// The members of digests that were seen sealed.
    sealed: BTreeMap<i64, Vec<i64>>,
    before: BTreeMap<i64, Found>,
}

impl World {
    async fn new() -> Self {
        // Nothing here is about the disk.
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let scene = Scene { store: Store::open(directory.path(), NOW).unwrap(), directory };
        let mut world = Self {
            scene,
            lanes: Vec::new(),
            pending: Default::default(),
            received: [0; 2],
            now: NOW,
            accepted: BTreeSet::new(),
            next_event: 0,
            doubtful: BTreeSet::new(),
            arrived: HashMap::new(),
            sealed: BTreeMap::new(),
            before: BTreeMap::new(),
        };
        world.subscribe().await;
        world
    }

    async fn subscribe(&mut self) {
        self.lanes.clear();
        for name in DESTINATIONS {
            self.lanes.push(self.scene.lane(name).await);
        }
        self.received = [0; 2];
    }

    async fn take(mut self, step: &Step) -> Self {
        match step {
            Step::Accept { key, severity, to, number, batch } => {
                self.accept(*key, *severity, *to, *number, *batch).await;
            }
            Step::Turn { lane, answers, claim, probe } => self.turn(*lane, answers, *claim, *probe).await,
            Step::Crash => return self.crash().await,
            Step::Pass { seconds } if *seconds > 0 => {
                self.now = self.now.plus(Duration::from_secs(seconds.unsigned_abs()));
            }
            Step::Pass { seconds } => {
                // Only from one process to the next can the clock be set back.
                self.scene.store.beat(self.now).await.unwrap();
                self.now = self.now.minus(Duration::from_secs(seconds.unsigned_abs()));
                return self.crash().await;
            }
            Step::Fold { lane, keep } => {
                self.scene.store.fold(self.lanes[*lane].outlet.destination, *keep, self.now).await.unwrap();
            }
            Step::Move { before } => {
                let which = Movable { before: self.now.minus(Duration::from_secs(*before)), after: 0 };
                let from = self.lanes[0].outlet.destination;
                self.scene.store.move_to_fallback(from, "mail".into(), which, "down".into(), self.now).await.unwrap();
            }
            Step::Notify => {
                let about = self.lanes[0].outlet.destination;
                self.scene.store.notify(about, "mail".into(), "archived".into(), self.now).await.unwrap();
            }
            Step::Retry => drop(self.scene.store.retry_dead(DeadFilter::default(), self.now).await.unwrap()),
            Step::Drop => {
                self.scene.store.drop_dead(DeadFilter::default(), "old".into(), self.now).await.unwrap();
            }
        }
        self
    }

    async fn accept(&mut self, key: usize, severity: usize, to: usize, number: usize, batch: Option<u32>) {
        let mut events = Vec::new();
        for _ in 0..number {
            let id = self.next_event.to_string();
            // Now and then an old one comes again.
            self.next_event += usize::from(self.next_event % 5 != 4 || number == 1);
            let owed: Vec<_> = (0..2)
                .filter(|bit| to & (1 << bit) != 0)
                .map(|bit| (DESTINATIONS[bit], SEVERITIES[severity]))
                .collect();
            let mut event = keyed(&id, KEYS[key], &owed);
            let batch = batch.map(|max| NewBatch { group: key.to_string(), wait: Duration::from_secs(20), max });
            event.owed.iter_mut().for_each(|owed| owed.batch.clone_from(&batch));
            if !self.accepted.iter().any(|(known, _)| *known == id) {
                let ids = (0..2).filter(|bit| to & (1 << bit) != 0).map(|bit| self.lanes[bit].outlet.destination);
                self.accepted.extend(ids.map(|destination| (id.clone(), destination)));
            }
            events.push(event);
        }
        self.scene.store.accept(&"test".into(), events.into(), self.now).await.unwrap();
        let waiting = self.rows().await;
        for lane in 0..2 {
            while let Ok(Born { claimed, kept }) = self.lanes[lane].born.try_recv() {
                kept.await.unwrap();
                self.received[lane] += 1;
                let (via, of) = (self.lanes[lane].outlet.destination, waiting[&claimed.row].lane);
                let overtaken = waiting.iter().find(|(row, other)| {
                    **row < claimed.row && other.state == State::Ready && (other.via, other.lane) == (via, of)
                });
                assert_eq!(overtaken, None, "{} was born before its turn", claimed.row);
                self.started(lane, claimed);
            }
        }
    }

    fn started(&mut self, lane: usize, claimed: Claimed) {
        assert_eq!(claimed.may_repeat, self.doubtful.contains(&claimed.row), "{} marked wrongly", claimed.row);
        self.pending[lane].push(claimed);
        assert!(self.pending[lane].len() <= SLOTS, "more under way than slots");
    }

    async fn turn(&mut self, lane: usize, answers: &[Answer], claim: bool, probe: bool) {
        let ended: Vec<_> = answers
            .iter()
            .map_while(|answer| (!self.pending[lane].is_empty()).then(|| (self.pending[lane].remove(0), *answer)))
            .collect();
        let mut recorded = Vec::new();
        for (claimed, answer) in ended {
            recorded.push(self.answered(claimed, answer).await);
        }
        let most = if claim { SLOTS - self.pending[lane].len() } else { 0 };
        let turn = Turn {
            ended: recorded.into(),
            claim: most,
            received: self.received[lane],
            offer: !probe,
            probe,
            remember: Some(Duration::from_mins(1)),
            ..Turn::default()
        };
        let outlet = self.lanes[lane].outlet;
        let taken = self.scene.store.turn(outlet, turn, self.now).await.unwrap();
        assert!(taken.next.is_none_or(|next| next > self.now));
        let after = self.rows().await;
        let order: Vec<_> = taken
            .claimed
            .iter()
            .map(|claimed| (LaneKey::from_number(after[&claimed.row].lane).tier(), claimed.row))
            .collect();
        assert!(order.is_sorted(), "{order:?}");
        for claimed in taken.claimed {
            let own = &after[&claimed.row];
            let held = after.iter().find(|(row, other)| {
                **row < claimed.row && other.state == State::Ready && (other.via, other.lane) == (own.via, own.lane)
            });
            assert!(probe || held.is_none(), "{} overtook {held:?}", claimed.row);
            self.started(lane, claimed);
        }
    }

    async fn answered(&mut self, claimed: Claimed, answer: Answer) -> Ended {
        let at = self.now;
        let later = at.plus(Duration::from_secs(10));
        let again = |counts, may_repeat, plain| Settlement::Again { at: later, counts, may_repeat, plain };
        let (outcome, settlement) = match answer {
            Answer::Delivered => (Outcome::Delivered, Settlement::Delivered),
            Answer::Failed => (Outcome::Transient, again(true, false, false)),
            Answer::Unknown => (Outcome::Ambiguous, again(true, true, false)),
            Answer::Throttled => (Outcome::Throttled { wait: None }, again(false, false, false)),
            Answer::Plain => (Outcome::RefusedContent, again(true, false, true)),
            Answer::Dead => (Outcome::RefusedContent, Settlement::Dead { reason: "no".into() }),
            Answer::Fallback if claimed.moved.is_none() && claimed.destination == self.lanes[0].outlet.destination => {
                let to = DestinationName::from("mail");
                (
                    Outcome::Ambiguous,
                    Settlement::Fallback {
                        to,
                        why: "down".into(),
                        may_repeat: true,
                        otherwise: Box::new(again(true, true, false)),
                    },
                )
            }
            Answer::Fallback | Answer::NotStarted => (Outcome::Transient, Settlement::NotStarted),
        };
        if outcome == Outcome::Ambiguous {
            self.doubtful.insert(claimed.row);
        }
        if outcome == Outcome::Delivered {
            let rows = self.rows().await;
            let told = rows.iter().filter(|(row, found)| **row == claimed.row || found.digest == Some(claimed.row));
            for (_, found) in told {
                if let Some(event) = found.event {
                    let times = self.arrived.entry((event, found.destination)).or_default();
                    *times += 1;
                    assert!(*times == 1 || claimed.may_repeat, "{event} arrived {times} times, unmarked");
                }
            }
        }
        Ended { claimed, at, report: Report::new(outcome, None, "as the test says"), settlement }
    }

    async fn crash(mut self) -> Self {
        let under_way = self.pending.iter_mut().flat_map(std::mem::take);
        self.doubtful.extend(under_way.map(|claimed| claimed.row));
        self.lanes.clear();
        self.scene = self.scene.crash_until(self.now);
        self.subscribe().await;
        self
    }

    async fn rows(&self) -> BTreeMap<i64, Found> {
        let rows = self.scene.store.read(|db| {
            let mut find = db.prepare_cached(
                "SELECT id, kind, event, destination, via, lane, state, tries, may_repeat, digest FROM delivery",
            )?;
            let rows = find.query_map([], |row| {
                let found = Found {
                    kind: row.get(1)?,
                    event: row.get(2)?,
                    destination: row.get(3)?,
                    via: row.get(4)?,
                    lane: row.get(5)?,
                    state: State::from_code(row.get(6)?).unwrap(),
                    tries: row.get(7)?,
                    may_repeat: row.get(8)?,
                    digest: row.get(9)?,
                };
                Ok((row.get(0)?, found))
            })?;
            rows.collect()
        });
        rows.await.unwrap()
    }

    async fn check(&mut self, step: &Step) {
        let rows = self.rows().await;
        let events = self.scene.store.read(|db| {
            let mut find = db.prepare_cached("SELECT id, event_id FROM event")?;
            find.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<BTreeMap<i64, String>>>()
        });
        let events = events.await.unwrap();
        let owed: Vec<_> = rows
            .values()
            .filter(|found| found.kind == 0)
            .map(|found| (events[&found.event.unwrap()].clone(), found.destination))
            .collect();
        assert_eq!(owed.len(), self.accepted.len(), "one delivery for each event and destination");
        assert_eq!(owed.into_iter().collect::<BTreeSet<_>>(), self.accepted);
        self.check_digests(&rows).await;
        let sending: BTreeSet<_> =
            rows.iter().filter(|(_, found)| found.state == State::Sending).map(|(row, _)| *row).collect();
        let pending: BTreeSet<_> = self.pending.iter().flatten().map(|claimed| claimed.row).collect();
        assert_eq!(sending, pending, "on record as under way, and under way");
        for (row, was) in &self.before {
            let Some(is) = rows.get(row) else {
                let untried = was.kind == 1 && was.state == State::Ready && was.tries == 0;
                assert!(untried && matches!(step, Step::Fold { .. }), "{row} is gone after {step:?}");
                continue;
            };
            assert!(may_follow(was.state, is.state, step), "{row} went from {} to {}", was.state, is.state);
            assert!(is.tries >= was.tries - 1 && is.digest.is_none_or(|_| is.state == State::Folded));
            assert!(is.may_repeat || !was.may_repeat, "{row} is no longer marked");
        }
        tallied(&self.scene).await;
        self.before = rows;
    }

    async fn check_digests(&mut self, rows: &BTreeMap<i64, Found>) {
        let digests = self.scene.store.read(|db| {
            let mut find = db.prepare_cached("SELECT delivery, open, members FROM digest")?;
            let digests = find.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
            digests.collect::<rusqlite::Result<BTreeMap<i64, (bool, i64)>>>()
        });
        let digests = digests.await.unwrap();
        let mut members: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (row, found) in rows {
            assert_eq!(found.state == State::Folded, found.digest.is_some());
            if let Some(digest) = found.digest {
                assert_eq!(rows[&digest].destination, found.destination);
                members.entry(digest).or_default().push(*row);
            }
        }
        assert_eq!(members.keys().collect::<Vec<_>>(), digests.keys().collect::<Vec<_>>());
        for (digest, (open, number)) in digests {
            assert_eq!(members[&digest].len() as u64, number.unsigned_abs(), "digest {digest}");
            if open {
                assert!(!self.sealed.contains_key(&digest), "{digest} was opened again");
                assert!(
                    matches!(rows[&digest].state, State::Held | State::Ready),
                    "{digest} is open and {}",
                    rows[&digest].state
                );
            } else {
                let sealed = self.sealed.entry(digest).or_insert_with(|| members[&digest].clone());
                assert_eq!(sealed, &members[&digest], "a sealed digest has changed");
            }
        }
    }

    /// With no more faults, everything arrives.
    async fn drain(mut self) -> Self {
        for _ in 0..400 {
            self = self.take(&Step::Pass { seconds: 30 }).await;
            for lane in 0..2 {
                let step = Step::Turn { lane, answers: vec![Answer::Delivered; SLOTS], claim: true, probe: false };
                self = self.take(&step).await;
                self.check(&step).await;
            }
            let rows = self.rows().await;
            if rows.values().all(|found| !matches!(found.state, State::Ready | State::Sending | State::Held)) {
                return self;
            }
        }
        panic!("never drained: {:?}", self.rows().await);
    }
}

fn may_follow(was: State, is: State, step: &Step) -> bool {
    use State::{Dead, Delivered, Dropped, Folded, Held, Ready, Sending};
    match (was, is) {
        _ if was == is => true,
        // A batch whose time has come may be claimed by the same turn.
        (Ready | Held, Sending) | (Held, Ready) | (Sending, Ready | Delivered | Dead) => true,
        (Ready, Folded) => matches!(step, Step::Fold { .. }),
        (Dead, Ready) => matches!(step, Step::Retry),
        (Dead, Dropped) => matches!(step, Step::Drop),
        _ => false,
    }
}

fn cases() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(48),
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_happens_nothing_is_lost_doubled_or_out_of_order(history in prop::collection::vec(steps(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in &history {
                world = world.take(step).await;
                world.check(step).await;
            }
            let world = world.drain().await;
            for (row, found) in &world.before {
                let told_by = found.digest.map_or(found.state, |digest| world.before[&digest].state);
                assert!(matches!(told_by, State::Delivered | State::Dead | State::Dropped), "{row} is {told_by}");
            }
        });
    }
}
