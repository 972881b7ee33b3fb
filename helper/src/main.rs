//! The helper as a program of its own.

fn main() -> std::process::ExitCode {
    outrigger_helper::main_with(std::env::args_os())
}
