//! Who leads: one Lease, on which all replicas agree.
//!
//! ```text
//! Lease as read ─► step ─► renew, take, wait ─► written with its resource version ─► Leadership
//!                    ▲ one's own clock alone
//! ```
//!
//! Nobody's clock is compared with another's. A candidate takes the lease when *it* has seen it unchanged for the
//! whole duration; the leader counts from the moment *before* it sent its last successful renewal, and stops leading
//! earlier than that duration. So two clocks may run at rates that differ by a fifth, requests may hang for any time,
//! and still no two lead at once.

mod run;
pub mod step;

pub use run::{Lease, Settings};
pub use step::{Action, Record, State};

/// Who leads, as this replica knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Whether this replica does.
    pub leader: bool,
    /// Where the leader takes reports, `address:port`; absent while nobody leads.
    pub address: Option<String>,
}
