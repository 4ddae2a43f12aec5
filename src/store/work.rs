//! What a job of the writer may touch: the connection, the tally, the lanes to wake, and offers to take new work at once.
//!
//! Everything but the connection takes effect only when the job's group is on disk; a job that fails leaves no trace. Only
//! what a lane offered to take is shown to it before, so that it can make the message ready while the disk works.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Claimed;
use crate::model::DestinationName;
use crate::model::delivery::State;

/// One job's hands.
pub(super) struct Work<'a> {
    pub db: &'a Connection,
    pub tally: Tally,
    /// Destinations that were given work.
    touched: Vec<i64>,
    /// What lanes that had offered were given.
    given: Vec<Given>,
    /// The lane that offered to take more.
    offered: Option<OutletId>,
    /// Deliveries given to a fallback.
    pub moved: usize,
    outlets: &'a Outlets,
}

/// A delivery that was claimed as it was made, because its lane had offered to take it.
#[derive(Debug)]
pub struct Born {
    pub claimed: Claimed,
    /// Told once it is on disk; closed without a word if it will never be. Until then nothing of it may leave, and after
    /// that its number may become another delivery's.
    pub kept: oneshot::Receiver<()>,
}

struct Given {
    destination: i64,
    lane: mpsc::UnboundedSender<Born>,
    kept: oneshot::Sender<()>,
}

impl<'a> Work<'a> {
    pub(super) fn new(db: &'a Connection, outlets: &'a Outlets) -> Self {
        Self { db, tally: Tally::default(), touched: Vec::new(), given: Vec::new(), offered: None, moved: 0, outlets }
    }

    /// Whether the lane of this destination takes one more delivery as it is made. Each yes uses up one offer. A lane that
    /// has gone takes nothing, whatever it had offered.
    pub(super) fn offered(&self, destination: i64) -> Option<mpsc::UnboundedSender<Born>> {
        let mut outlets = self.outlets.lock();
        let outlet = outlets.get_mut(&destination).filter(|outlet| !outlet.born.is_closed())?;
        outlet.room = outlet.room.checked_sub(1)?;
        Some(outlet.born.clone())
    }

    /// The number of a destination that has a lane; it saves asking the store.
    pub(super) fn known_id(&self, name: &DestinationName) -> Option<i64> {
        self.outlets.0.numbers.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// A number for a new event. None is given twice, even where a row came to nothing or has been let go since.
    pub(super) fn next_event(&self) -> i64 {
        self.outlets.0.last_event.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// As [`next_event`](Self::next_event), for a delivery.
    pub(super) fn next_delivery(&self) -> i64 {
        self.outlets.0.last_delivery.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last numbers given to an event and to a delivery.
    pub(super) fn last_rows(&self) -> (i64, i64) {
        (self.outlets.0.last_event.load(Ordering::Relaxed), self.outlets.0.last_delivery.load(Ordering::Relaxed))
    }

    /// Something waits for the lane of this destination: it will be woken, and what comes meanwhile must not overtake.
    pub(super) fn waits(&mut self, destination: i64) {
        if let Some(outlet) = self.outlets.lock().get_mut(&destination) {
            outlet.withdraw();
        }
        self.touched.push(destination);
    }

    /// How many deliveries have been given to the lane in all.
    pub(super) fn given(&self, outlet: OutletId) -> Option<u64> {
        self.outlets.with(outlet, |found| found.given)
    }

    /// Gives the lane what it offered to take; whether it is kept, it hears later.
    pub(super) fn hand_over(&mut self, destination: i64, lane: mpsc::UnboundedSender<Born>, claimed: Claimed) {
        let (kept, told) = oneshot::channel();
        if let Some(outlet) = self.outlets.lock().get_mut(&destination)
            && outlet.born.same_channel(&lane)
        {
            outlet.given += 1;
        }
        // A lane that has gone cannot take it; the next start takes it up, as after a crash.
        let _ = lane.send(Born { claimed, kept: told });
        self.given.push(Given { destination, lane, kept });
    }

    /// Sets how many deliveries the lane will take as they are made, in place of any earlier offer. Nothing else waits for it.
    pub(super) fn offer(&mut self, outlet: OutletId, room: usize) {
        self.offered = Some(outlet);
        self.outlets.with(outlet, |found| (found.room, found.nothing_waits) = (room, true));
    }

    /// Takes back what the lane has offered.
    pub(super) fn withdraw(&self, outlet: OutletId) {
        self.outlets.with(outlet, Outlet::withdraw);
    }

    /// Whether the lane has been given all that came since it last offered: looking in the store, it would find nothing.
    pub(super) fn nothing_waits(&self, outlet: OutletId) -> bool {
        self.outlets.with(outlet, |found| found.nothing_waits).unwrap_or(false)
    }

    /// What is to be done once the group has been committed, or has not.
    pub(super) fn effects(self) -> (Tally, Effects) {
        (self.tally, Effects { touched: self.touched, given: self.given, offered: self.offered })
    }
}

/// What follows from a job's commit.
pub(super) struct Effects {
    touched: Vec<i64>,
    given: Vec<Given>,
    offered: Option<OutletId>,
}

impl Effects {
    /// Tells and wakes.
    pub(super) fn commit(self, outlets: &Outlets) {
        for given in self.given {
            // A lane that has gone does not listen.
            let _ = given.kept.send(());
        }
        let outlets = outlets.lock();
        self.touched.iter().filter_map(|id| outlets.get(id)).for_each(|outlet| outlet.wake.notify_one());
    }

    /// Nothing of it happened. Lanes whose offers were used look again: for the sake of what was not given to them, they may
    /// have claimed less than they could. What a lane offered after it had looked counts no more either: its looking came to
    /// nothing, too.
    pub(super) fn undo(self, outlets: &Outlets) {
        if let Some(outlet) = self.offered {
            outlets.with(outlet, Outlet::withdraw);
        }
        let mut outlets = outlets.lock();
        for Given { destination, lane, kept } in self.given {
            // Told before it is woken, so that it finds its slots free.
            drop(kept);
            if let Some(outlet) = outlets.get_mut(&destination)
                && outlet.born.same_channel(&lane)
            {
                outlet.withdraw();
                outlet.wake.notify_one();
            }
        }
    }
}

/// Where lanes are reached, and what number the next row gets.
#[derive(Clone)]
pub(super) struct Outlets(Arc<Doors>);

#[derive(Default)]
struct Doors {
    by_number: Mutex<HashMap<i64, Outlet>>,
    /// On disk before they are here, and never changed.
    numbers: Mutex<HashMap<DestinationName, i64>>,
    /// The last numbers given to rows.
    last_event: AtomicI64,
    last_delivery: AtomicI64,
}

struct Outlet {
    number: u64,
    wake: Arc<Notify>,
    /// New deliveries that the lane will take at once.
    room: usize,
    /// The lane found nothing when it last looked, and has been given all that came since.
    nothing_waits: bool,
    /// Deliveries given to the lane in all.
    given: u64,
    born: mpsc::UnboundedSender<Born>,
}

impl Outlet {
    fn withdraw(&mut self) {
        (self.room, self.nothing_waits) = (0, false);
    }
}

/// Names one lane's outlet: after a reload a destination may have another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutletId {
    pub destination: i64,
    number: u64,
}

/// A lane's end of the store.
#[derive(Debug)]
pub struct Subscription {
    pub outlet: OutletId,
    /// Told of new work; carries no data.
    pub wake: Arc<Notify>,
    /// Deliveries that were claimed as they were made, because the lane had offered to take them.
    pub born: mpsc::UnboundedReceiver<Born>,
}

impl Outlets {
    /// `last`: the highest numbers of an event and of a delivery so far.
    pub(super) fn new((event, delivery): (i64, i64)) -> Self {
        let (last_event, last_delivery) = (AtomicI64::new(event), AtomicI64::new(delivery));
        Self(Arc::new(Doors { last_event, last_delivery, ..Doors::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Outlet>> {
        self.0.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if the destination has another outlet by now.
    fn with<T>(&self, outlet: OutletId, what: impl FnOnce(&mut Outlet) -> T) -> Option<T> {
        let mut outlets = self.lock();
        outlets.get_mut(&outlet.destination).filter(|found| found.number == outlet.number).map(what)
    }

    /// Lets every lane look for work.
    pub(super) fn wake_all(&self) {
        self.lock().values().for_each(|outlet| outlet.wake.notify_one());
    }

    /// A new outlet in place of the destination's present one. The destination's number must be on disk.
    pub(super) fn open(&self, name: DestinationName, destination: i64) -> Subscription {
        self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner).insert(name, destination);
        let (sender, born) = mpsc::unbounded_channel();
        let wake = Arc::new(Notify::new());
        let mut outlets = self.lock();
        let number = outlets.get(&destination).map_or(0, |outlet| outlet.number + 1);
        let (room, nothing_waits, given) = (0, false, 0);
        outlets
            .insert(destination, Outlet { number, wake: Arc::clone(&wake), room, nothing_waits, given, born: sender });
        Subscription { outlet: OutletId { destination, number }, wake, born }
    }
}

/// Changes to the number of deliveries in each state, written once for a whole group.
#[derive(Default)]
pub(super) struct Tally {
    changes: Vec<(i64, State, i64)>,
    /// Deliveries owed for the first time.
    pub owed: i64,
}

impl Tally {
    pub(super) fn add(&mut self, destination: i64, state: State, number: i64) {
        match self.changes.iter_mut().find(|(of, at, _)| (*of, *at) == (destination, state)) {
            Some((.., sum)) => *sum += number,
            None => self.changes.push((destination, state, number)),
        }
    }

    pub(super) fn moved(&mut self, destination: i64, from: State, to: State) {
        self.add(destination, from, -1);
        self.add(destination, to, 1);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.owed += other.owed;
        other.changes.into_iter().for_each(|(destination, state, number)| self.add(destination, state, number));
    }

    /// Writes the sums, in the transaction of the jobs that made them.
    pub(super) fn write(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut add = db.prepare_cached(
            "INSERT INTO tally VALUES (?1, ?2, ?3)
             ON CONFLICT (destination, state) DO UPDATE SET number = number + excluded.number",
        )?;
        for (destination, state, number) in self.changes.drain(..).filter(|(.., number)| *number != 0) {
            add.execute(params![destination, state.code(), number])?;
        }
        if self.owed != 0 {
            db.prepare_cached(
                "INSERT INTO meta VALUES ('owed', ?1) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            )?
            .execute([std::mem::take(&mut self.owed)])?;
        }
        Ok(())
    }
}
