//! The simulated engine as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_engine_sim::main_with(std::env::args_os())
}
