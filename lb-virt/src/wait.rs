//! Ends of waiting.

use std::time::{Duration, Instant};

/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// When a wait of so long ends, from now on. The clock can't be asked for times as far away as [`Duration::MAX`], which is for ever.
pub(crate) fn until(wait: Duration) -> Instant {
    Instant::now() + wait.min(FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_ever_have_an_end_too() {
        let now = Instant::now();
        assert!(until(Duration::MAX) > now + FOR_EVER / 2);
        let soon = until(Duration::from_secs(7));
        assert!((Duration::from_secs(7)..FOR_EVER).contains(&(soon - now)));
        assert!(until(Duration::ZERO) >= now);
    }
}
