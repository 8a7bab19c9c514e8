//! The pause before something is tried again.

use std::time::Duration;

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// The pause after failure number `attempt` (from 1): `first`, then twice as long each time, a minute at most.
pub fn backoff(first: Duration, attempt: u32) -> Duration {
    first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_minute() {
        let pauses = |first| [1, 2, 3, 7, 100].map(|attempt| backoff(Duration::from_millis(first), attempt).as_millis());
        assert_eq!(pauses(1000), [1000, 2000, 4000, 60_000, 60_000]);
        assert_eq!(pauses(500), [500, 1000, 2000, 32_000, 60_000]);
    }
}
