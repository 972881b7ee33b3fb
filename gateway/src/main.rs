//! The gateway as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_gateway::main_with(std::env::args_os())
}
