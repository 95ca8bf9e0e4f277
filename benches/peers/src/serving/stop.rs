//! Ctrl-C, so that what runs is ended and what was made is removed.

use super::ServingError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether a signal has asked for the end. As long as this lives the first signal only sets it; the second one ends the program.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens to SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn on_signals() -> Result<Self, ServingError> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the flag is not set yet when the first signal looks at it.
            flag::register_conditional_default(signal, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .map_err(ServingError::io("listen to signals"))?;
        }
        Ok(Self(asked))
    }

    /// # Errors
    /// [`ServingError::Stopped`] once a signal has come.
    pub(super) fn check(&self) -> Result<(), ServingError> {
        if self.0.load(Ordering::Relaxed) { Err(ServingError::Stopped) } else { Ok(()) }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        // From now on the first signal is the second one.
        self.0.store(true, Ordering::Relaxed);
    }
}
