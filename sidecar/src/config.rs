//! What the sidecar is told at its start: flags, environment, a file.

use clap::Parser;
use outrigger_dataplane::config::{EX_USAGE, Mistakes};
use outrigger_decide::admission::{BatchLimits, Limits};
use outrigger_table::ClientTls;
use outrigger_wire::{DeploymentKey, EndpointId, EngineKind, Mistake, Serving};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

#[cfg(test)]
mod tests;

/// The program's name, in messages.
pub const NAME: &str = "outrigger-sidecar";

/// The environment variables that mean something here.
const VARIABLES: [&str; 16] = [
    "OUTRIGGER_LISTEN",
    "OUTRIGGER_ADMIN",
    "OUTRIGGER_TABLE",
    "OUTRIGGER_TABLE_CA",
    "OUTRIGGER_TABLE_TOKEN",
    "OUTRIGGER_STATE_DIR",
    "OUTRIGGER_THREADS",
    "OUTRIGGER_ENGINE",
    "OUTRIGGER_ENGINE_KIND",
    "OUTRIGGER_MODEL",
    "OUTRIGGER_ENDPOINT",
    "OUTRIGGER_DEPLOYMENT",
    "OUTRIGGER_SOCKET",
    "OUTRIGGER_HELPER",
    "OUTRIGGER_MAX_BODY",
    "OUTRIGGER_CONFIG",
];

const ALONE: &str = "\
Alone, without an operator, beside an engine on port 8000:

  outrigger-sidecar --engine 127.0.0.1:8000 --engine-kind vLLM --listen :9000

Clients then use port 9000. The file holds the `serving` fields of a ModelDeployment, all of them optional:

  batching: {maxSize: 32, maxDelay: 10ms}
  admission: {concurrency: 4, maxQueue: 256, maxQueueDelay: 2s}
  timeouts: {connect: 3s, firstByte: 60s, idle: 10s, total: 300s}
  health: {stallAfter: 30s, restartBudget: {per: 10m, max: 3}}
  maxDrain: 120s

The engine's own liveness probe asks the socket: `outrigger-helper live --socket PATH` fails only when the sidecar
says that the engine has to be restarted. SIGTERM finishes what is in flight; a second one ends at once.
OUTRIGGER_LOG filters the log (`debug`, `outrigger_sidecar=trace`).";

/// Stands beside an inference engine: bounded queue, batching, health by progress, drain, metrics.
#[derive(Debug, Parser)]
#[command(name = NAME, version, about, after_help = ALONE)]
struct Flags {
    /// The engine, host:port.
    #[arg(long, env = "OUTRIGGER_ENGINE", default_value = "127.0.0.1:8000")]
    engine: String,
    /// Its kind: vLLM, MLServer or Custom.
    #[arg(long, env = "OUTRIGGER_ENGINE_KIND", default_value = "Custom")]
    engine_kind: String,
    /// The model's name as the engine knows it; what warm-up asks for. Where absent, the first that it lists.
    #[arg(long, env = "OUTRIGGER_MODEL", default_value = "")]
    model: String,
    /// Where requests are taken, ip:port or :port; port 0 takes a free one.
    #[arg(long, env = "OUTRIGGER_LISTEN", default_value = "127.0.0.1:9000")]
    listen: String,
    /// Where /livez, /readyz, /metrics and /status are, ip:port or :port.
    #[arg(long, env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:9001")]
    admin: String,
    /// Servers that give the hot fields, host:port, separated by commas; without them the file's are used.
    #[arg(long, env = "OUTRIGGER_TABLE")]
    table: Option<String>,
    /// A file with the authorities (PEM) by which those servers are known; read anew when it changes. With it goes
    /// --table-token; without both there is no TLS.
    #[arg(long, env = "OUTRIGGER_TABLE_CA")]
    table_ca: Option<PathBuf>,
    /// A file with a token of the pod's service account, audience `outrigger`; a certificate is given for it.
    #[arg(long, env = "OUTRIGGER_TABLE_TOKEN")]
    table_token: Option<PathBuf>,
    /// A directory in which the last hot fields are kept, to serve by when no server answers.
    #[arg(long, env = "OUTRIGGER_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// The name of this sidecar among others; needed with --table.
    #[arg(long, env = "OUTRIGGER_ENDPOINT", default_value = "")]
    endpoint: String,
    /// Whose replica this is, namespace/name; for logs and /status.
    #[arg(long, env = "OUTRIGGER_DEPLOYMENT", default_value = "")]
    deployment: String,
    /// A Unix socket for the engine's probe and hooks (outrigger-helper).
    #[arg(long, env = "OUTRIGGER_SOCKET")]
    socket: Option<PathBuf>,
    /// Where the helper (the program `outrigger-helper` beside this one) is copied to at the start, for the engine's
    /// container to run.
    #[arg(long, env = "OUTRIGGER_HELPER")]
    helper: Option<PathBuf>,
    /// The largest request body, in bytes.
    #[arg(long, env = "OUTRIGGER_MAX_BODY", default_value = "67108864")]
    max_body: String,
    /// Threads that serve requests, 1 to 64. Limits are shared out among them, and a batch forms on one.
    #[arg(long, env = "OUTRIGGER_THREADS", default_value = "1")]
    threads: String,
    /// A YAML file with the `serving` fields.
    #[arg(long, env = "OUTRIGGER_CONFIG")]
    config: Option<PathBuf>,
}

/// The sidecar's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine, `host:port`.
    pub engine: String,
    /// Its kind.
    pub kind: EngineKind,
    /// The model's name; empty where it is not known.
    pub model: String,
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Where probes and metrics are.
    pub admin: SocketAddr,
    /// Servers that give the hot fields; empty: it stands alone.
    pub table: Vec<String>,
    /// What those servers want in order to let this one in; without it there is no TLS.
    pub tls: Option<ClientTls>,
    /// Where the last hot fields are kept.
    pub state_dir: Option<PathBuf>,
    /// This sidecar's name.
    pub endpoint: EndpointId,
    /// Whose replica this is.
    pub deployment: DeploymentKey,
    /// The helper's socket.
    pub socket: Option<PathBuf>,
    /// Where the helper is copied to.
    pub helper: Option<PathBuf>,
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// Data threads.
    pub threads: usize,
    /// The hot fields to begin with.
    pub serving: Serving,
}

impl Config {
    /// Reads arguments (the program's name first), environment and file; prints what is wrong with them.
    ///
    /// # Errors
    ///
    /// The exit status: 64 for mistakes, 0 when help was asked for and given.
    pub fn read(args: impl Iterator<Item = OsString>) -> Result<Self, ExitCode> {
        let flags = Flags::try_parse_from(args).map_err(|error| {
            let wrong = error.use_stderr();
            // Nowhere to say that saying it failed.
            let _ = error.print();
            if wrong { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS }
        })?;
        let environment = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut mistakes = Mistakes::default();
        mistakes.unknown_environment(environment, &VARIABLES);
        let config = Self::mean(&flags, &mut mistakes);
        mistakes.finish(NAME)?;
        config.ok_or(ExitCode::from(EX_USAGE))
    }

    /// What the flags mean; what they can't is added to `mistakes`, and then there is nothing.
    fn mean(flags: &Flags, mistakes: &mut Mistakes) -> Option<Self> {
        let address = "ip:port or :port, such as 127.0.0.1:9000";
        let listen = mistakes.parse("--listen", Some(&any(&flags.listen)), address);
        let admin = mistakes.parse("--admin", Some(&any(&flags.admin)), address);
        let kind = kind(mistakes, &flags.engine_kind);
        let threads = threads(mistakes, &flags.threads);
        let max_body = max_body(mistakes, &flags.max_body);
        if !is_server(&flags.engine) {
            let message = format!("`{}` is no address; allowed: host:port", flags.engine);
            mistakes.push(Mistake::new("--engine", message));
        }
        let table = table(mistakes, flags);
        let tls = tls(flags, mistakes);
        let batches_by_itself = kind.is_some_and(EngineKind::batches_by_itself);
        let serving = serving(mistakes, flags, batches_by_itself);
        Some(Self {
            engine: flags.engine.clone(),
            kind: kind?,
            model: flags.model.clone(),
            listen: listen?,
            admin: admin?,
            table,
            tls,
            state_dir: flags.state_dir.clone(),
            endpoint: flags.endpoint.as_str().into(),
            deployment: flags.deployment.as_str().into(),
            socket: flags.socket.clone(),
            helper: flags.helper.clone(),
            max_body: max_body?,
            threads: threads?,
            serving: serving?,
        })
    }
}

/// `:9000` is any address of this machine.
fn any(address: &str) -> String {
    if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() }
}

fn is_server(server: &str) -> bool {
    let pair = server.rsplit_once(':');
    pair.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn kind(mistakes: &mut Mistakes, text: &str) -> Option<EngineKind> {
    let kinds = [EngineKind::VLlm, EngineKind::MLServer, EngineKind::Custom];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == text);
    if kind.is_none() {
        let message = format!("`{text}` is no engine kind; allowed: vLLM, MLServer, Custom");
        mistakes.push(Mistake::new("--engine-kind", message));
    }
    kind
}

fn threads(mistakes: &mut Mistakes, text: &str) -> Option<usize> {
    let threads: usize = mistakes.parse("--threads", Some(text), "1 to 64")?;
    if !(1..=64).contains(&threads) {
        let message = format!("{threads} is out of range; allowed: 1 to 64");
        mistakes.push(Mistake::new("--threads", message));
        return None;
    }
    Some(threads)
}

fn max_body(mistakes: &mut Mistakes, text: &str) -> Option<u64> {
    let allowed = 1..=1u64 << 40;
    let bytes: u64 = mistakes.parse("--max-body", Some(text), "1 to 1099511627776")?;
    if !allowed.contains(&bytes) {
        let message = format!("{bytes} is out of range; allowed: 1 to {}", allowed.end());
        mistakes.push(Mistake::new("--max-body", message));
        return None;
    }
    Some(bytes)
}

fn table(mistakes: &mut Mistakes, flags: &Flags) -> Vec<String> {
    let Some(table) = &flags.table else { return Vec::new() };
    if flags.endpoint.is_empty() {
        mistakes
            .push(Mistake::new("--endpoint", "it is empty; allowed with --table: this sidecar's name there"));
    }
    let servers: Vec<String> = table.split(',').map(|server| server.trim().to_owned()).collect();
    for server in servers.iter().filter(|server| !is_server(server)) {
        mistakes.push(Mistake::new("--table", format!("`{server}` is no server; allowed: host:port")));
    }
    servers
}

fn tls(flags: &Flags, mistakes: &mut Mistakes) -> Option<ClientTls> {
    let tls = ClientTls::given(flags.table.is_some(), flags.table_ca.clone(), flags.table_token.clone());
    tls.map_err(|mistake| mistakes.push(mistake)).ok().flatten()
}

fn serving(mistakes: &mut Mistakes, flags: &Flags, batches_by_itself: bool) -> Option<Serving> {
    let Some(path) = &flags.config else { return Some(Serving::default()) };
    let document = mistakes.file::<Serving>(path)?;
    let mut found = document.value.check("");
    for mistake in &mut found {
        mistake.path = mistake.path.trim_start_matches('.').to_owned();
    }
    if batches_by_itself && document.value.batching.is_some() {
        let message = format!("{} batches by itself; allowed: no batching here", flags.engine_kind);
        found.push(Mistake::new("batching", message));
    }
    let fine = found.is_empty();
    mistakes.extend(document.locate(found));
    fine.then_some(document.value)
}

/// What the hot fields mean for the queue of one of `threads` threads: each has its share.
pub fn limits(serving: &Serving, kind: EngineKind, threads: usize) -> Limits {
    let batching = serving.batching.as_ref().filter(|_| !kind.batches_by_itself());
    let default = match (kind, batching) {
        (EngineKind::VLlm, _) => 256,
        (_, Some(_)) => 4,
        (_, None) => 64,
    };
    let threads = u32::try_from(threads).unwrap_or(1).max(1);
    let admission = &serving.admission;
    Limits {
        concurrency: admission.concurrency.unwrap_or(default).div_ceil(threads).max(1),
        max_queue: admission.max_queue.div_ceil(threads),
        max_queue_bytes: crate::queue::MAX_QUEUE_BYTES,
        max_queue_delay: admission.max_queue_delay.get(),
        batch: batching.map(|b| BatchLimits { max_rows: b.max_size, max_delay: b.max_delay.get() }),
    }
}
