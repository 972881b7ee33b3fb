//! How often is a healthy canary rolled back, and how soon is a bad one found? `cargo run -p outrigger-verdict
//! --example simulate --release [RUNS]` prints the table; a thousand runs a row take some minutes.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "../tests/simulation/arms.rs"]
mod arms;

use arms::{Arm, Outcome, Setting, Stretch, rollout};
use outrigger_verdict::Metric;

fn main() {
    let runs = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1000);
    println!("10 requests/s, 5 % to the canary, 20 min, looks every 5 s, {runs} runs a row");
    println!("{:32}{HEADER}", "canary (stable: 1 % errors)");
    let healthy = Arm::failing(0.01);
    let bursts = Arm::bursting(0.01);
    let latency = |slower, rho| (Arm { rho, ..healthy }, Arm { slower, rho, ..healthy });
    let cases: [(&str, (Arm, Arm)); 20] = [
        ("like stable", (healthy, healthy)),
        ("like stable, bursts of 5", (bursts, bursts)),
        ("5 % errors", (healthy, Arm::failing(0.05))),
        ("5 % errors, bursts of 5", (bursts, Arm::bursting(0.05))),
        ("3 % errors", (healthy, Arm::failing(0.03))),
        ("2 % errors", (healthy, Arm::failing(0.02))),
        ("20 % errors", (healthy, Arm::failing(0.2))),
        ("all fail", (healthy, Arm::failing(1.0))),
        ("5 % errors, stable none", (Arm::failing(0.0), Arm::failing(0.05))),
        ("like stable, no errors", (Arm::failing(0.0), Arm::failing(0.0))),
        ("latency like stable, ρ 0.5", latency(1.0, 0.5)),
        ("latency like stable, ρ 0.9", latency(1.0, 0.9)),
        ("3 % errors, bursts of 5", (bursts, Arm::bursting(0.03))),
        ("1.1 × slower", latency(1.1, 0.0)),
        ("1.25 × slower", latency(1.25, 0.0)),
        ("1.25 × slower, ρ 0.5", latency(1.25, 0.5)),
        ("1.25 × slower, ρ 0.9", latency(1.25, 0.9)),
        ("1.5 × slower", latency(1.5, 0.0)),
        ("2 × slower", latency(2.0, 0.0)),
        ("2 × slower, ρ 0.9", latency(2.0, 0.9)),
    ];
    let only = std::env::args().nth(2).unwrap_or_default();
    for (name, (stable, canary)) in cases.into_iter().filter(|(name, _)| name.contains(&only)) {
        row(name, &Setting::r15(stable, canary), runs);
    }
    println!("\n60 requests/s, 30 s at 10 %, 60 s at 50 %");
    println!("{:32}{HEADER}", "canary (stable: no errors)");
    let show = |canary| Setting {
        rps: 60,
        stretches: vec![Stretch { share: 0.1, seconds: 30 }, Stretch { share: 0.5, seconds: 60 }],
        stable: Arm::failing(0.0),
        canary,
    };
    row("like stable", &show(Arm::failing(0.0)), runs);
    row("2 × slower", &show(Arm { slower: 2.0, ..Arm::failing(0.0) }), runs);
    row("20 % errors", &show(Arm::failing(0.2)), runs);
    row("all fail", &show(Arm::failing(1.0)), runs);
}

const HEADER: &str = "rolled back (errors / first token)  median min   passed errors, after requests   passed first token, after";

fn row(name: &str, setting: &Setting, runs: u64) {
    let outcomes: Vec<Outcome> = (0..runs).map(|seed| rollout(setting, seed)).collect();
    let share = |n: usize| 100.0 * n as f64 / runs as f64;
    let by = |metric| outcomes.iter().filter(|o| o.failed.is_some_and(|(_, by)| by == metric)).count();
    let (errors, token) = (by(Metric::Errors), by(Metric::TimeToFirstToken));
    let failed = median(outcomes.iter().map(|o| o.failed.map_or(f64::INFINITY, |(minutes, _)| minutes)));
    let passed = |index: usize| {
        let at = |o: &Outcome| o.passed.get(index).copied().flatten();
        let count = outcomes.iter().filter(|o| at(o).is_some()).count();
        let after = median(outcomes.iter().filter_map(at).map(|(_, requests)| requests as f64));
        format!("{:6.1} %  {after:8.0}", share(count))
    };
    let both = share(errors + token);
    println!(
        "{name:32}{both:6.1} % ({:.2} % / {:.2} %) {failed:12.1}   {}   {}",
        share(errors),
        share(token),
        passed(0),
        passed(1)
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
