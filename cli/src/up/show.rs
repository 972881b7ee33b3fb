//! The show of `up` without a file: the built-in example, load, and after a while a new revision.

use clap::ValueEnum;
use outrigger_crds::ModelDeploymentSpec;
use std::time::{Duration, Instant};

/// What the show runs.
pub(crate) const EXAMPLE: &str = include_str!("../../../examples/sim.yaml");
/// How long the first revision is shown under load before the new one comes: long enough for its latencies to be
/// known, which the new one is compared with.
const CALM: Duration = Duration::from_secs(6);
/// Requests that a bad revision serves well, its warm-up among them: what is bad shows under traffic, not at once.
const GOOD_AT_FIRST: u32 = 5;
/// Requests per second that the show sends unless told otherwise. At the steps' weights and holds, each of them sees
/// more of the canary than the analysis needs.
pub(crate) const RATE: f64 = 80.0;

/// How the new revision is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bad {
    /// It is three times as slow.
    Latency,
    /// A fifth of its answers are errors.
    Errors,
    /// It takes requests and never answers.
    Hang,
    /// It ends after a few requests, again and again.
    Crash,
}

impl Bad {
    const fn fault(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Errors => "errors",
            Self::Hang => "hang",
            Self::Crash => "crash",
        }
    }
}

/// How far the show is.
#[derive(Debug)]
enum Stage {
    /// The first revision is starting.
    Starting,
    /// It serves, and load is sent, since then.
    Calm(Instant),
    /// The new revision was declared.
    Edited,
}

/// The show's script.
#[derive(Debug)]
pub(crate) struct Show {
    bad: Option<Bad>,
    stage: Stage,
}

impl Show {
    /// From its beginning.
    pub(crate) fn new(bad: Option<Bad>) -> Self {
        Self { bad, stage: Stage::Starting }
    }

    /// Whether the new revision was declared: how that ends is how the show ends.
    pub(crate) fn is_edited(&self) -> bool {
        matches!(self.stage, Stage::Edited)
    }

    /// The edit, when it is time for it. `serving`: the declared revision is stable and gets load.
    pub(crate) fn next(
        &mut self,
        spec: &ModelDeploymentSpec,
        serving: bool,
        now: Instant,
    ) -> Option<ModelDeploymentSpec> {
        match self.stage {
            Stage::Starting if serving && is_edited(spec) => self.stage = Stage::Edited,
            Stage::Starting if serving => self.stage = Stage::Calm(now),
            Stage::Calm(since) if now.duration_since(since) >= CALM => {
                self.stage = Stage::Edited;
                return Some(edit(spec, self.bad));
            }
            _ => {}
        }
        None
    }

    /// Goes on with a show that was interrupted after the edit.
    pub(crate) fn resume(&mut self, spec: &ModelDeploymentSpec) {
        if is_edited(spec) {
            self.stage = Stage::Edited;
        }
    }
}

/// The version that the example gives, and the next one.
const VERSIONS: [&str; 2] = ["v1", "v2"];

fn is_edited(spec: &ModelDeploymentSpec) -> bool {
    let [_, next] = VERSIONS;
    spec.engine.args.iter().any(|arg| arg == next)
}

/// Another version of the engine, as somebody would edit the file.
fn edit(spec: &ModelDeploymentSpec, bad: Option<Bad>) -> ModelDeploymentSpec {
    let [first, next] = VERSIONS;
    let mut spec = spec.clone();
    for arg in spec.engine.args.iter_mut().filter(|arg| *arg == first) {
        next.clone_into(arg);
    }
    if let Some(bad) = bad {
        let flags = ["--fault", bad.fault(), "--fault-after", &GOOD_AT_FIRST.to_string()].map(str::to_owned);
        spec.engine.args.extend(flags);
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::file::check;
    use outrigger_plan::revision;

    #[test]
    fn the_example_is_in_order_and_its_edits_are_revisions() {
        let spec = check(EXAMPLE.as_bytes()).unwrap().spec;
        let mut all = vec![revision::of(&spec.engine), revision::of(&edit(&spec, None).engine)];
        for bad in Bad::value_variants() {
            all.push(revision::of(&edit(&spec, Some(*bad)).engine));
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(count, 6);
    }

    #[test]
    fn edits_once_after_a_calm_while() {
        let spec = check(EXAMPLE.as_bytes()).unwrap().spec;
        let (mut show, start) = (Show::new(None), Instant::now());
        assert!(show.next(&spec, false, start + CALM * 9).is_none());
        assert!(show.next(&spec, true, start).is_none());
        assert!(show.next(&spec, true, start + CALM / 2).is_none());
        let edited = show.next(&spec, true, start + CALM).unwrap();
        assert!(show.is_edited());
        assert!(show.next(&edited, true, start + CALM * 9).is_none());
    }

    #[test]
    fn an_interrupted_show_goes_on_after_its_edit() {
        let spec = check(EXAMPLE.as_bytes()).unwrap().spec;
        let mut show = Show::new(None);
        show.resume(&spec);
        assert!(!show.is_edited());
        show.resume(&edit(&spec, None));
        assert!(show.is_edited());
    }
}
