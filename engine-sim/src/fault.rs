//! Faults on request: what is wrong with the engine, and from which request on.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// Everything takes `factor` times as long, 0.01 to 1000.
    Latency {
        /// By what times are multiplied.
        #[serde(default = "slow")]
        factor: f64,
    },
    /// A share of inference requests is answered with 500.
    Errors {
        /// From 0 to 1.
        #[serde(default = "some")]
        share: f64,
    },
    /// Connections are accepted, nothing is ever answered, probes included.
    Hang,
    /// Probes and metrics are answered on, but no inference makes progress: the engine core is stuck.
    Stall,
    /// The process ends.
    Crash,
    /// Alive in a long prefill: prompts take `factor` times as long, probes are answered after `probe_ms`.
    Busy {
        /// By what prefill times are multiplied.
        #[serde(default = "long")]
        factor: f64,
        /// How long each answer to a probe takes, milliseconds.
        #[serde(default = "lazily")]
        probe_ms: u64,
    },
    /// `/metrics` is gone (404).
    LostMetrics,
    /// This much memory is taken and kept: more than the engine may have, where it has a limit.
    Memory {
        /// In MiB, at most 16384.
        #[serde(default = "much")]
        mebibytes: u32,
    },
}

/// Clearly worse and still serving.
fn slow() -> f64 {
    3.0
}

/// A fifth.
fn some() -> f64 {
    0.2
}

/// 100 times the default prefill: 2 ms per token, 16 s for 8 Ki tokens.
fn long() -> f64 {
    100.0
}

/// Ten seconds, as engines with every slot taken were seen to need.
fn lazily() -> u64 {
    10_000
}

/// In MiB: more than small containers may have, and little enough to be there.
fn much() -> u32 {
    1024
}

impl Fault {
    /// The fault of that name, its numbers at their defaults unless given.
    pub fn named(kind: Kind, factor: Option<f64>, share: Option<f64>, probe: Option<Duration>) -> Self {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        match kind {
            Kind::Latency => Self::Latency { factor: factor.unwrap_or_else(slow) },
            Kind::Errors => Self::Errors { share: share.unwrap_or_else(some) },
            Kind::Hang => Self::Hang,
            Kind::Stall => Self::Stall,
            Kind::Crash => Self::Crash,
            Kind::Busy => Self::Busy {
                factor: factor.unwrap_or_else(long),
                probe_ms: probe.map_or_else(lazily, millis),
            },
            Kind::LostMetrics => Self::LostMetrics,
            Kind::Memory => Self::Memory { mebibytes: much() },
        }
    }
}

/// A fault's name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Everything is slower by --fault-factor (3).
    Latency,
    /// A --fault-share (0.2) of inference requests is answered with 500.
    Errors,
    /// Accepts connections and never answers, probes included.
    Hang,
    /// Answers probes and metrics, makes no progress with inference.
    Stall,
    /// Ends: at once, or when request number --fault-after comes.
    Crash,
    /// Alive in a long prefill: slow answers on probes (--fault-probe-delay, 10s), prompts slower by
    /// --fault-factor (100).
    Busy,
    /// Has no /metrics.
    LostMetrics,
    /// Takes 1 GiB of memory and keeps it (at runtime: as many `mebibytes` as it is told).
    Memory,
}

/// What is wrong now, and what will be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults(Vec<(Fault, u64)>);

impl Faults {
    /// Adds a fault that begins with inference request number `from` (counted from 0); one of the same kind is
    /// replaced.
    pub fn set(&mut self, fault: Fault, from: u64) {
        let same = |a: &Fault| std::mem::discriminant(a) == std::mem::discriminant(&fault);
        self.0.retain(|(other, _)| !same(other));
        self.0.push((fault, from));
    }

    /// Nothing is wrong any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What is wrong once `requests` inference requests have come.
    pub fn now(&self, requests: u64) -> Wrong {
        let mut wrong = Wrong { factor: 1.0, prefill: 1.0, ..Wrong::default() };
        for (fault, _) in self.0.iter().filter(|(_, from)| *from <= requests) {
            match *fault {
                Fault::Latency { factor } => wrong.factor = factor,
                Fault::Errors { share } => wrong.errors = share,
                Fault::Hang => wrong.hang = true,
                Fault::Stall => wrong.stall = true,
                Fault::Crash => wrong.crash = true,
                Fault::Busy { factor, probe_ms } => {
                    wrong.prefill = factor;
                    wrong.probe_delay = Duration::from_millis(probe_ms);
                }
                Fault::LostMetrics => wrong.lost_metrics = true,
                Fault::Memory { mebibytes } => wrong.mebibytes = mebibytes,
            }
        }
        wrong
    }
}

/// All that is wrong at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wrong {
    /// By what times are multiplied.
    pub factor: f64,
    /// By what prefill times are multiplied further.
    pub prefill: f64,
    /// The share of inference requests that fail.
    pub errors: f64,
    /// Nothing is answered.
    pub hang: bool,
    /// No inference progresses.
    pub stall: bool,
    /// The process ends.
    pub crash: bool,
    /// How long an answer to a probe takes.
    pub probe_delay: Duration,
    /// `/metrics` is gone.
    pub lost_metrics: bool,
    /// How much memory is taken for nothing, in MiB.
    pub mebibytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_begins_when_it_is_told_to_and_others_stay() {
        let mut faults = Faults::default();
        faults.set(Fault::named(Kind::Latency, None, None, None), 0);
        faults.set(Fault::Crash, 3);
        assert_eq!((faults.now(0).factor, faults.now(2).crash, faults.now(3).crash), (3.0, false, true));
        faults.set(Fault::Latency { factor: 2.0 }, 1);
        assert_eq!((faults.now(0).factor, faults.now(1).factor), (1.0, 2.0));
        faults.clear();
        assert_eq!(faults.now(9).factor, 1.0);
        assert!(!faults.now(9).crash);
    }

    #[test]
    fn faults_are_read_by_name_with_defaults() {
        let read = |text| serde_json::from_str::<Fault>(text);
        assert_eq!(read(r#"{"fault":"errors"}"#).unwrap(), Fault::Errors { share: 0.2 });
        assert_eq!(read(r#"{"fault":"lost-metrics"}"#).unwrap(), Fault::LostMetrics);
        assert_eq!(
            read(r#"{"fault":"busy","probe_ms":5}"#).unwrap(),
            Fault::Busy { factor: 100.0, probe_ms: 5 }
        );
        assert_eq!(read(r#"{"fault":"memory","mebibytes":64}"#).unwrap(), Fault::Memory { mebibytes: 64 });
        assert!(read(r#"{"fault":"mood"}"#).is_err());
    }
}
