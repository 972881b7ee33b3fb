//! What a simulated engine is told: as a value, and as flags.

use crate::fault::{Fault, Faults, Kind};
use crate::scheduler::Limits;
use crate::timing::Timing;
use clap::Parser;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Everything that makes up one simulated engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// The model's name, to which it answers.
    pub model: String,
    /// Everything that is drawn comes from this.
    pub seed: u64,
    /// Told in `system_fingerprint` and in the header `x-engine-version`, so that revisions can be told apart.
    pub version: String,
    /// What work costs.
    pub timing: Timing,
    /// By how much a request's overhead varies, up and down, 0 to 1.
    pub jitter: f64,
    /// What runs at once.
    pub limits: Limits,
    /// The most tokens of a prompt and its answer together.
    pub max_model_len: u32,
    /// The most rows of one V1 or V2 call; a larger one is a 400.
    pub max_rows: u32,
    /// V1 and V2 calls that are worked on at once.
    pub instances: u32,
    /// What is wrong with it.
    pub faults: Faults,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: "demo".to_owned(),
            seed: 0,
            version: "sim".to_owned(),
            timing: Timing::default(),
            jitter: 0.1,
            limits: Limits::default(),
            max_model_len: 8192,
            max_rows: 64,
            instances: 1,
            faults: Faults::default(),
        }
    }
}

impl Config {
    /// All that can't be as it stands.
    pub fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                found.push(what);
            }
        };
        must(!self.model.is_empty(), "--model is empty; allowed: a name".to_owned());
        must((0.0..=1.0).contains(&self.jitter), format!("--jitter {} is not within 0 to 1", self.jitter));
        for (name, value) in [
            ("max-num-seqs", self.limits.max_sequences),
            ("max-num-batched-tokens", self.limits.max_batched_tokens),
            ("block-size", self.limits.block_size),
            ("max-model-len", self.max_model_len),
            ("max-rows", self.max_rows),
            ("instances", self.instances),
        ] {
            must(value > 0, format!("--{name} is 0; allowed: 1 at least"));
        }
        must(
            self.max_model_len <= self.limits.tokens(),
            format!(
                "--max-model-len {} needs more than the KV cache's {} tokens (--num-blocks × --block-size)",
                self.max_model_len,
                self.limits.tokens()
            ),
        );
        found
    }
}

/// A simulated inference engine: from outside it behaves like vLLM (OpenAI's API) and like a V2 (Open Inference) REST
/// server, with a timing model instead of a model, and with faults on request (also at runtime: POST /sim/fault).
#[derive(Debug, Parser)]
#[command(name = "outrigger-engine-sim", disable_version_flag = true)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one and prints it
    #[arg(long, default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000))]
    pub(crate) listen: SocketAddr,
    /// The address, instead of that in --listen; vLLM's flag and MLServer's variable, so that it can stand for either
    #[arg(long, env = "MLSERVER_HOST")]
    host: Option<IpAddr>,
    /// The port, instead of that in --listen
    #[arg(long, env = "MLSERVER_HTTP_PORT")]
    pub(crate) port: Option<u16>,
    /// The model's name
    #[arg(long, env = "MLSERVER_MODEL_NAME", default_value = "demo")]
    model: String,
    /// The name under which it is served, instead of --model
    #[arg(long)]
    served_model_name: Option<String>,
    /// Everything that is drawn (texts, jitter, errors) comes from this
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Told in system_fingerprint and x-engine-version
    #[arg(long = "version", value_name = "LABEL", default_value = "sim")]
    label: String,
    /// From a request's arrival to its scheduling
    #[arg(long, value_parser = duration, default_value = "20ms")]
    overhead: Duration,
    /// By how much the overhead varies, 0 to 1
    #[arg(long, default_value_t = 0.1)]
    jitter: f64,
    /// Cost of one prompt token
    #[arg(long, value_parser = duration, default_value = "20us")]
    prefill_per_token: Duration,
    /// Cost of one scheduler iteration, that is of one token
    #[arg(long, value_parser = duration, default_value = "2ms")]
    iteration: Duration,
    /// Cost of each decoding sequence in an iteration
    #[arg(long, value_parser = duration, default_value = "20us")]
    decode_per_sequence: Duration,
    /// Sequences that run at once
    #[arg(long, default_value_t = 256)]
    max_num_seqs: u32,
    /// Tokens per iteration
    #[arg(long, default_value_t = 2048)]
    max_num_batched_tokens: u32,
    /// KV-cache blocks
    #[arg(long, default_value_t = 4096)]
    num_blocks: u32,
    /// Tokens per KV-cache block
    #[arg(long, default_value_t = 16)]
    block_size: u32,
    /// Tokens of prompt and answer together
    #[arg(long, default_value_t = 8192)]
    max_model_len: u32,
    /// Cost of one V1 or V2 call
    #[arg(long, value_parser = duration, default_value = "5ms")]
    call: Duration,
    /// Cost of each row in it
    #[arg(long, value_parser = duration, default_value = "200us")]
    per_row: Duration,
    /// Rows of one V1 or V2 call
    #[arg(long, default_value_t = 64)]
    max_rows: u32,
    /// V1 and V2 calls at once
    #[arg(long, default_value_t = 1)]
    instances: u32,
    /// How long it loads before it listens
    #[arg(long, value_parser = duration, default_value = "0ms")]
    pub(crate) load_time: Duration,
    /// What is wrong with it; may be repeated
    #[arg(long, value_enum)]
    fault: Vec<Kind>,
    /// From which inference request on (0: from the start)
    #[arg(long, default_value_t = 0)]
    fault_after: u64,
    /// By how much latency (3) or busy's prefill (100) grows
    #[arg(long)]
    fault_factor: Option<f64>,
    /// Which share of requests fails, 0 to 1 (0.2)
    #[arg(long)]
    fault_share: Option<f64>,
    /// How long busy takes to answer a probe (10s)
    #[arg(long, value_parser = duration)]
    fault_probe_delay: Option<Duration>,
    /// Start a worker process, as engines do
    #[arg(long)]
    pub(crate) worker: bool,
    #[arg(long, hide = true)]
    pub(crate) worker_process: bool,
}

impl Args {
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host.unwrap_or(self.listen.ip()), self.port.unwrap_or(self.listen.port()))
    }

    pub(crate) fn config(&self) -> Config {
        let mut faults = Faults::default();
        for kind in &self.fault {
            let fault = Fault::named(*kind, self.fault_factor, self.fault_share, self.fault_probe_delay);
            faults.set(fault, self.fault_after);
        }
        Config {
            model: self.served_model_name.as_ref().unwrap_or(&self.model).clone(),
            seed: self.seed,
            version: self.label.clone(),
            timing: Timing {
                overhead: self.overhead,
                prefill_per_token: self.prefill_per_token,
                iteration: self.iteration,
                decode_per_sequence: self.decode_per_sequence,
                call: self.call,
                per_row: self.per_row,
            },
            jitter: self.jitter,
            limits: Limits {
                max_sequences: self.max_num_seqs,
                max_batched_tokens: self.max_num_batched_tokens,
                blocks: self.num_blocks,
                block_size: self.block_size,
                ..Limits::default()
            },
            max_model_len: self.max_model_len,
            max_rows: self.max_rows,
            instances: self.instances,
            faults,
        }
    }
}

/// A whole number and `us`, `ms` or `s`; engines need finer times than the resource's fields.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration: write a whole number and us, ms or s, such as 200us or 5ms");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (digits, unit) = text.split_at_checked(split).ok_or_else(wrong)?;
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    // An hour: longer than any wait that is worth simulating.
    match number.checked_mul(micros).filter(|n| *n <= 3_600_000_000) {
        Some(all) => Ok(Duration::from_micros(all)),
        None => Err(format!("`{text}` is longer than the longest allowed, 3600s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_without_values_give_the_default_config() {
        let config = Args::try_parse_from(["sim"]).unwrap().config();
        let default = Config::default();
        assert_eq!(config.timing, default.timing);
        assert_eq!(config.limits, default.limits);
        assert_eq!(
            (config.max_model_len, config.max_rows, config.instances),
            (default.max_model_len, default.max_rows, default.instances)
        );
        assert!(config.mistakes().is_empty());
    }

    #[test]
    fn the_engines_own_words_for_address_and_name_are_understood() {
        let flags =
            ["sim", "--host=0.0.0.0", "--port=8000", "--model=org/llama", "--served-model-name=llama"];
        let args = Args::try_parse_from(flags).unwrap();
        assert_eq!(args.address(), "0.0.0.0:8000".parse().unwrap());
        assert_eq!(args.config().model, "llama");
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let args = Args::try_parse_from(["sim", "--max-num-seqs", "0", "--jitter", "7", "--num-blocks", "1"]);
        let mistakes = args.unwrap().config().mistakes();
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    }

    #[test]
    fn durations_have_units_and_an_end() {
        assert_eq!(duration("200us"), Ok(Duration::from_micros(200)));
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        for wrong in ["", "5", "ms", "5m", "-1s", "1.5s", "4000s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
