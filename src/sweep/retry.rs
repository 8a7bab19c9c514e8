//! What may be tried again by itself, and when.

use std::time::Duration;

/// Tries of a job in one session after the first, where nothing else is asked for.
pub const RETRIES: u32 = 2;

/// The pause before try number `attempt` (1 is the first after a failure): a second, then twice as long each time, a minute at most.
pub fn pause(attempt: u32) -> Duration {
    Duration::from_secs(1 << attempt.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        assert_eq!([1, 2, 3, 7, 100].map(|attempt| pause(attempt).as_secs()), [1, 2, 4, 60, 60]);
    }
}
