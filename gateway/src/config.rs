//! What the gateway is told at its start: flags, environment, a file.

use clap::Parser;
use outrigger_dataplane::config::Mistakes;
use outrigger_dataplane::serve::ServeOptions;
use outrigger_decide::route;
use outrigger_table::ClientTls;
use outrigger_wire::{GatewayId, Mistake, Routes};
use serde::Deserialize;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// The program's name, in messages.
pub const NAME: &str = "outrigger-gateway";

/// The environment variables that mean something here.
const VARIABLES: [&str; 14] = [
    "OUTRIGGER_LISTEN",
    "OUTRIGGER_ADMIN",
    "OUTRIGGER_TABLE",
    "OUTRIGGER_TABLE_CA",
    "OUTRIGGER_TABLE_TOKEN",
    "OUTRIGGER_STATE_DIR",
    "OUTRIGGER_THREADS",
    "OUTRIGGER_GATEWAY",
    "OUTRIGGER_CONFIG",
    "OUTRIGGER_MAX_BODY",
    "OUTRIGGER_MAX_BUFFERED",
    "OUTRIGGER_MAX_CONNECTIONS",
    "OUTRIGGER_MAX_IN_FLIGHT",
    "OUTRIGGER_MAX_DRAIN",
];

const ALONE: &str = "\
Alone, without an operator, a file says where requests go:

  routes:
    - deployment: default/chat
      model: llama-3.1-8b
      aliases: [chat-default]
      stable:
        revision: v1
        endpoints:
          - {id: a, address: 127.0.0.1:9000}
          - {id: b, address: 127.0.0.1:9001}

  outrigger-gateway --config routes.yaml

A second revision gets its share of callers with `canary: {revision: v2, endpoints: [...]}` and `weight: 500`
(hundredths of a percent: 5 %). `timeouts`, `maxQueueDelay` and `traffic` are those of a ModelDeployment.
OUTRIGGER_LOG filters the log (`debug`, `outrigger_gateway=trace`).";

/// The front door: finds the model that a request asks for, and a replica that serves it.
#[derive(Debug, Parser)]
#[command(name = NAME, version, about, after_help = ALONE)]
struct Flags {
    /// Where requests are taken, ip:port; port 0 takes a free one.
    #[arg(long, env = "OUTRIGGER_LISTEN", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Where /livez, /readyz, /metrics and /status are, ip:port.
    #[arg(long, env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:8081")]
    admin: String,
    /// Servers that give routes, host:port, separated by commas; without them the file's routes are served.
    #[arg(long, env = "OUTRIGGER_TABLE")]
    table: Option<String>,
    /// A file with the authorities (PEM) by which those servers are known; read anew when it changes. With it goes
    /// --table-token; without both there is no TLS.
    #[arg(long, env = "OUTRIGGER_TABLE_CA")]
    table_ca: Option<PathBuf>,
    /// A file with a token of the pod's service account, audience `outrigger`; a certificate is given for it.
    #[arg(long, env = "OUTRIGGER_TABLE_TOKEN")]
    table_token: Option<PathBuf>,
    /// A directory in which the last routes are kept, to serve from when no server answers.
    #[arg(long, env = "OUTRIGGER_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Threads that serve requests, 1 to 256; one per core when absent.
    #[arg(long, env = "OUTRIGGER_THREADS")]
    threads: Option<String>,
    /// The name of this gateway among others.
    #[arg(long, env = "OUTRIGGER_GATEWAY", default_value = "gateway")]
    gateway: String,
    /// A YAML file with routes.
    #[arg(long, env = "OUTRIGGER_CONFIG")]
    config: Option<PathBuf>,
    /// The largest request body, in bytes.
    #[arg(long, env = "OUTRIGGER_MAX_BODY", default_value = "67108864")]
    max_body: String,
    /// The most bytes of request bodies in memory.
    #[arg(long, env = "OUTRIGGER_MAX_BUFFERED", default_value = "536870912")]
    max_buffered: String,
    /// The most open connections of clients.
    #[arg(long, env = "OUTRIGGER_MAX_CONNECTIONS", default_value = "20000")]
    max_connections: String,
    /// The most requests in flight; further ones are refused with 429.
    #[arg(long, env = "OUTRIGGER_MAX_IN_FLIGHT", default_value = "20000")]
    max_in_flight: String,
    /// How long requests in flight may take when the gateway is told to stop, in seconds, up to a day: the longest
    /// `timeouts.total` of the ModelDeployments, whose default this is.
    #[arg(long, env = "OUTRIGGER_MAX_DRAIN", default_value = "300")]
    max_drain: String,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    routes: Vec<Routes>,
}

/// The gateway's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Where probes and metrics are.
    pub admin: SocketAddr,
    /// This gateway's name.
    pub gateway: GatewayId,
    /// Where routes come from.
    pub source: Source,
    /// What those servers want in order to let this one in; without it there is no TLS.
    pub tls: Option<ClientTls>,
    /// Where the last routes are kept.
    pub state_dir: Option<PathBuf>,
    /// Data threads.
    pub threads: usize,
    /// How long requests in flight may take at the end.
    pub max_drain: Duration,
    /// Bounds of each data thread.
    pub limits: Limits,
}

/// Where routes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Servers, `host:port`.
    Table(Vec<String>),
    /// A file.
    Fixed(Vec<Routes>),
}

/// Where a body's model is looked for, in bytes. OpenAI's own library writes `model` behind the messages, which hold
/// pictures: 32 MiB are some twenty photographs in base64.
pub const MAX_SOUGHT: usize = 32 << 20;

/// How long a body may take to come, beside what its size allows: as long as Apache gives it (20 s, `mod_reqtimeout`),
/// and half more for clients on the way.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bounds of one data thread: the program's, shared out evenly.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest request body, in bytes. 64 MiB: a batch of images for a V2 engine fits.
    pub max_body: u64,
    /// Bytes of request bodies in memory.
    pub max_buffered: usize,
    /// The most bytes of a body in which its model is looked for, and that the bodies of one connection hold
    /// together: no client takes all memory. See [`MAX_SOUGHT`].
    pub max_sought: usize,
    /// How long a body that is kept may take to come, beside what its size allows; see [`PATIENCE`].
    pub patience: Duration,
    /// Open connections.
    pub max_connections: usize,
    /// Requests in flight.
    pub max_in_flight: usize,
}

impl Limits {
    /// The most bytes that the bodies of one connection hold: half of a small memory, so that another client finds
    /// room.
    pub fn max_held(&self) -> usize {
        self.max_sought.min(self.max_buffered / 2)
    }

    /// The bounds of the server side.
    pub fn serving(&self) -> ServeOptions {
        ServeOptions { max_connections: self.max_connections, ..ServeOptions::default() }
    }
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
            if wrong { ExitCode::from(outrigger_dataplane::config::EX_USAGE) } else { ExitCode::SUCCESS }
        })?;
        let environment = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut mistakes = Mistakes::default();
        mistakes.unknown_environment(environment, &VARIABLES);
        let config = Self::mean(&flags, &mut mistakes);
        mistakes.finish(NAME)?;
        config.ok_or(ExitCode::from(outrigger_dataplane::config::EX_USAGE))
    }

    /// What the flags mean; what they can't is added to `mistakes`, and then there is nothing.
    fn mean(flags: &Flags, mistakes: &mut Mistakes) -> Option<Self> {
        let address = "ip:port, such as 127.0.0.1:8080";
        let listen = mistakes.parse("--listen", Some(&flags.listen), address);
        let admin = mistakes.parse("--admin", Some(&flags.admin), address);
        let threads = match &flags.threads {
            Some(text) => number(mistakes, "--threads", text, 1, 256),
            None => Some(std::thread::available_parallelism().map_or(1, |n| n.get() as u64)),
        };
        let max_body = number(mistakes, "--max-body", &flags.max_body, 1, 1 << 40);
        let max_buffered = number(mistakes, "--max-buffered", &flags.max_buffered, 1 << 20, 1 << 40);
        let max_connections = number(mistakes, "--max-connections", &flags.max_connections, 1, 1 << 24);
        let max_in_flight = number(mistakes, "--max-in-flight", &flags.max_in_flight, 1, 1 << 24);
        let max_drain = number(mistakes, "--max-drain", &flags.max_drain, 0, 86_400);
        if flags.gateway.is_empty() || flags.gateway.len() > 253 {
            mistakes.push(Mistake::new("--gateway", "the name is empty or long; allowed: 1 to 253 bytes"));
        }
        let source = source(flags, mistakes);
        let tls = tls(flags, mistakes);
        let threads = usize::try_from(threads?).ok()?;
        let each = |all: u64| usize::try_from(all).ok().map(|all| all.div_ceil(threads));
        Some(Self {
            listen: listen?,
            admin: admin?,
            gateway: flags.gateway.as_str().into(),
            source: source?,
            tls,
            state_dir: flags.state_dir.clone(),
            threads,
            max_drain: Duration::from_secs(max_drain?),
            limits: Limits {
                max_body: max_body?,
                max_buffered: each(max_buffered?)?,
                max_sought: MAX_SOUGHT,
                patience: PATIENCE,
                max_connections: each(max_connections?)?,
                max_in_flight: each(max_in_flight?)?,
            },
        })
    }
}

fn number(mistakes: &mut Mistakes, name: &str, text: &str, min: u64, max: u64) -> Option<u64> {
    let allowed = format!("{min} to {max}");
    let value: u64 = mistakes.parse(name, Some(text), &allowed)?;
    if (min..=max).contains(&value) {
        return Some(value);
    }
    mistakes.push(Mistake::new(name, format!("{value} is out of range; allowed: {allowed}")));
    None
}

fn tls(flags: &Flags, mistakes: &mut Mistakes) -> Option<ClientTls> {
    let tls = ClientTls::given(flags.table.is_some(), flags.table_ca.clone(), flags.table_token.clone());
    tls.map_err(|mistake| mistakes.push(mistake)).ok().flatten()
}

fn source(flags: &Flags, mistakes: &mut Mistakes) -> Option<Source> {
    match (&flags.table, &flags.config) {
        (Some(_), Some(_)) => {
            let message = "routes come from servers or from a file; allowed: one of --table and --config";
            mistakes.push(Mistake::new("--table", message));
            None
        }
        (None, None) => {
            mistakes.push(Mistake::new(
                "--config",
                "nothing says where requests go; allowed: --config or --table",
            ));
            None
        }
        (Some(table), None) => {
            let servers: Vec<String> = table.split(',').map(|server| server.trim().to_owned()).collect();
            let is_server = |server: &&String| {
                let pair = server.rsplit_once(':');
                pair.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            };
            let wrong: Vec<_> = servers.iter().filter(|server| !is_server(server)).collect();
            for server in &wrong {
                mistakes
                    .push(Mistake::new("--table", format!("`{server}` is no server; allowed: host:port")));
            }
            wrong.is_empty().then_some(Source::Table(servers))
        }
        (None, Some(path)) => {
            let document = mistakes.file::<File>(path)?;
            let routes = &document.value.routes;
            let mut found = Vec::new();
            for (i, route) in routes.iter().enumerate() {
                found.extend(route::check(route, &format!("routes[{i}]")));
                if routes.iter().take(i).any(|other| other.deployment == route.deployment) {
                    let message = format!("{} is there twice; allowed: once", route.deployment);
                    found.push(Mistake::new(format!("routes[{i}].deployment"), message));
                }
            }
            let fine = found.is_empty();
            mistakes.extend(document.locate(found));
            fine.then_some(Source::Fixed(document.value.routes))
        }
    }
}
