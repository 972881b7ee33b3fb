//! Until a controller has nothing left to do.

use super::audit::{Audit, Seen};
use anyhow::{Result, bail};
use std::future::Future;
use std::time::{Duration, Instant};

/// A controller that wrote nothing for this long is asked whether all is there.
const QUIET: Duration = Duration::from_secs(3);
/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Waits until all is there (`lacks` names nothing) and the controller's writes have ceased, for `bound` at most.
///
/// # Errors
/// When something is still lacking then.
pub(crate) async fn settle<F>(
    audit: &mut Audit,
    bound: Duration,
    mut lacks: impl FnMut() -> F,
) -> Result<Seen>
where
    F: Future<Output = Result<Option<String>>>,
{
    let began = Instant::now();
    let mut wrote = Instant::now();
    let mut lacking = "nothing was written".to_owned();
    loop {
        tokio::time::sleep(LOOK).await; // between two looks
        if audit.look()? {
            wrote = Instant::now();
        }
        if wrote.elapsed() >= QUIET && audit.seen.count() > 0 {
            match lacks().await? {
                None => return Ok(audit.seen.clone()),
                Some(what) => lacking = what,
            }
            wrote = Instant::now();
        }
        if began.elapsed() > bound {
            bail!("not settled after {bound:?}: {lacking}; seen: {:?}", audit.seen);
        }
    }
}
