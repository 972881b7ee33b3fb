//! `operator`: measures the operator on a real cluster, prints a table, writes `target/bench/operator.json`.

use anyhow::Result;
use outrigger_benches::{operator, report};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "operator: {e:?}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let began = Instant::now();
    let outcome = operator::run()?;
    let mut out = std::io::stdout();
    write!(out, "{}", report::table(&outcome.lines))?;
    let path = report::write("operator", &outcome.lines)?;
    writeln!(out, "\n{:.0} s; written to {}", began.elapsed().as_secs_f64(), path.display())?;
    Ok(())
}
