//! Outrigger on the command line.

fn main() -> std::process::ExitCode {
    outrigger::main_with(std::env::args_os())
}
