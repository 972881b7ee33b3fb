//! The operator as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_operator::main_with(std::env::args_os())
}
