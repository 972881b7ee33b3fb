//! The project's own tools: `cargo xtask test | soak | lint | generate | bench NAME | cluster ... | programs ... | images ... |
//! contracts`.
//!
//! Plain Rust with nothing further to install: what a command needs beyond Rust it sets up by itself, outside the
//! checkout, and says so.

mod bench;
mod chart;
mod cluster;
mod contracts;
mod generate;
mod images;
mod lint;
mod packages;
mod programs;
mod real_cluster;
mod run;
mod soak;
mod test;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test         set up what is needed, run every rung, print each rung's time and what was skipped and why;
               `test cluster` runs the rung on a real cluster alone
  soak [MIN]   histories drawn longer and the cluster's hardest tests again and again, for two hours or so many minutes
  lint         formatting, clippy, generated files, contracts, licences and bans
  generate     write the generated files (crds/yaml); --check only compares
  bench NAME   run a benchmark (proxy, batching, dataplane, operator, verdicts), print its table, write target/bench/NAME.json
  cluster ...  a real Kubernetes to test with: up, down, status, load, ...; alone, it lists them
  programs ... build the programs that the cluster and its tests need, and print where they are
  images ...   build the images of static programs into archives, as they are shipped, without Docker: all, or the named
  contracts    list each contract line with the tests that prove it; fail on a line without one
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test::test(),
        ["test", "cluster"] => test::cluster(),
        ["soak"] => soak::soak(None),
        ["soak", minutes] => soak::soak(Some(minutes)),
        ["lint"] => lint::lint(),
        ["generate"] => generate::generate(false),
        ["generate", "--check"] => generate::generate(true),
        ["bench", name] => bench::bench(name),
        ["programs", named @ ..] => programs::programs(named),
        ["images", named @ ..] => images::images(named),
        ["cluster", words @ ..] => match cluster::command(words) {
            Some(result) => result,
            None => {
                print!("{}", cluster::USAGE);
                return ExitCode::from(64);
            }
        },
        ["contracts"] => contracts::contracts(true),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            print!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
