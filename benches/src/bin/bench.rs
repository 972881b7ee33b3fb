//! `bench proxy|dataplane|batching`: measures, prints a table, writes `target/bench/NAME.json`. `bench stub ADDRESS` is the
//! upstream that the cases start for themselves.

use anyhow::{Context, Result, bail};
use outrigger_benches::{batching, proxy, report, stub};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "bench: {e:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<String>) -> Result<ExitCode> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let began = Instant::now();
    let outcome = match args.as_slice() {
        ["stub", address] => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let serving = async { stub::serve(tokio::net::TcpListener::bind(*address).await?).await };
            runtime.block_on(serving).with_context(|| format!("serving on {address}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        ["proxy"] => proxy::run()?,
        ["dataplane"] => proxy::run_dataplane()?,
        ["batching"] => batching::run()?,
        _ => bail!("usage: bench proxy | dataplane | batching"),
    };
    let [name, ..] = args.as_slice() else { bail!("no name") };
    let mut out = std::io::stdout();
    write!(out, "{}", report::table(&outcome.lines))?;
    if let Some(why) = outcome.void {
        writeln!(out, "\nVOID: {why}")?;
        return Ok(ExitCode::from(VOID));
    }
    let path = report::write(name, &outcome.lines)?;
    writeln!(out, "\n{:.0} s; written to {}", began.elapsed().as_secs_f64(), path.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The exit status of a run that says nothing: what it was measured against was itself disturbed.
const VOID: u8 = 3;
