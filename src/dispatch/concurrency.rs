//! How many attempts a destination has under way at once. Pure.
//!
//! It starts with one, doubles while all goes well, and after the first trouble grows by one a round and shrinks by half: the
//! receiver finds its own pace, as TCP does.

#[derive(Clone, Debug)]
pub struct Concurrency {
    limit: f64,
    max: usize,
    /// No trouble since the start.
    doubling: bool,
}

impl Concurrency {
    /// `max` is at least one.
    pub fn new(max: usize) -> Self {
        Self { limit: 1.0, max: max.max(1), doubling: true }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to `max`, rounded down")]
    pub fn limit(&self) -> usize {
        (self.limit as usize).clamp(1, self.max)
    }

    pub fn max(&self) -> usize {
        self.max
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    pub fn succeeded(&mut self) {
        let step = if self.doubling { 1.0 } else { 1.0 / self.limit };
        self.limit = (self.limit + step).min(self.max as f64);
    }

    /// It failed, or asked for a pause.
    pub fn failed(&mut self) {
        self.doubling = false;
        self.limit = (self.limit / 2.0).max(1.0);
    }

    /// After an outage it starts anew.
    pub fn restart(&mut self) {
        *self = Self::new(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_fast_then_slowly_and_shrinks_at_once() {
        let mut concurrency = Concurrency::new(16);
        assert_eq!(concurrency.limit(), 1);
        for _ in 0..7 {
            concurrency.succeeded();
        }
        assert_eq!(concurrency.limit(), 8);
        concurrency.failed();
        assert_eq!(concurrency.limit(), 4);
        for _ in 0..5 {
            concurrency.succeeded();
        }
        assert_eq!(concurrency.limit(), 5);
        for _ in 0..9 {
            concurrency.failed();
        }
        assert_eq!(concurrency.limit(), 1);
        concurrency.restart();
        for _ in 0..99 {
            concurrency.succeeded();
        }
        assert_eq!(concurrency.limit(), 16);
    }

    #[test]
    fn one_at_a_time_stays_so() {
        let mut concurrency = Concurrency::new(1);
        concurrency.succeeded();
        assert_eq!(concurrency.limit(), 1);
    }
}
