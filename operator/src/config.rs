//! What the operator is told at its start: flags and environment.

use crate::check::Check;
use crate::render::Installation;
use clap::{Parser, Subcommand};
use outrigger_dataplane::config::{EX_USAGE, Mistakes};
use outrigger_wire::Mistake;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// The program's name, in messages.
pub const NAME: &str = "outrigger-operator";

/// The environment variables that mean something here.
const VARIABLES: [&str; 14] = [
    "OUTRIGGER_NAMESPACE",
    "OUTRIGGER_POD_NAME",
    "OUTRIGGER_POD_IP",
    "OUTRIGGER_SERVICE",
    "OUTRIGGER_LEASE",
    "OUTRIGGER_GATEWAY_SERVICE_ACCOUNT",
    "OUTRIGGER_SIDECAR_IMAGE",
    "OUTRIGGER_IMAGE_PULL_POLICY",
    "OUTRIGGER_IMAGE_PULL_SECRETS",
    "OUTRIGGER_WEBHOOK_NAME",
    "OUTRIGGER_TABLE_LISTEN",
    "OUTRIGGER_WEBHOOK_LISTEN",
    "OUTRIGGER_ADMIN",
    "OUTRIGGER_CA_LIFETIME",
];

const MORE: &str = "\
The chart starts it with everything that it needs. By hand, against the cluster of the present kubeconfig:

  outrigger-operator --namespace outrigger-system --pod-name me --pod-ip 10.0.0.1 --sidecar-image outrigger/sidecar:0.1.0

OUTRIGGER_LOG filters the log (`debug`, `outrigger_operator=trace`).";

/// Serves the ModelDeployments of a cluster: observes, plans, applies, tells proxies, admits.
#[derive(Debug, Parser)]
#[command(name = NAME, version, about, after_help = MORE, args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// The namespace in which this operator is installed.
    #[arg(long, env = "OUTRIGGER_NAMESPACE", default_value = "")]
    namespace: String,
    /// The name of this replica's pod; who holds the lease.
    #[arg(long, env = "OUTRIGGER_POD_NAME", default_value = "")]
    pod_name: String,
    /// The address of this replica's pod, at which other replicas reach it.
    #[arg(long, env = "OUTRIGGER_POD_IP", default_value = "")]
    pod_ip: String,
    /// The Service of all replicas, at which proxies reach them.
    #[arg(long, env = "OUTRIGGER_SERVICE", default_value = "outrigger-operator")]
    service: String,
    /// The Lease by which replicas agree who leads.
    #[arg(long, env = "OUTRIGGER_LEASE", default_value = "outrigger-operator")]
    lease: String,
    /// The service account of gateways, in this namespace.
    #[arg(long, env = "OUTRIGGER_GATEWAY_SERVICE_ACCOUNT", default_value = "outrigger-gateway")]
    gateway_service_account: String,
    /// The image of sidecars.
    #[arg(long, env = "OUTRIGGER_SIDECAR_IMAGE", default_value = "")]
    sidecar_image: String,
    /// When the sidecar's image is pulled: Always, IfNotPresent or Never; Kubernetes' own default when absent.
    #[arg(long, env = "OUTRIGGER_IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,
    /// Secrets of this namespace, separated by commas, with which a new sidecar's image is brought to nodes. Pods of
    /// models pull it with what their own namespace and template give.
    #[arg(long, env = "OUTRIGGER_IMAGE_PULL_SECRETS", default_value = "")]
    image_pull_secrets: String,
    /// The webhook configurations whose certificate authority is kept; without it no webhook is served.
    #[arg(long, env = "OUTRIGGER_WEBHOOK_NAME")]
    webhook_name: Option<String>,
    /// Where proxies and other replicas are served, ip:port or :port.
    #[arg(long, env = "OUTRIGGER_TABLE_LISTEN", default_value = ":8443")]
    table_listen: String,
    /// Where the API server's admission requests are served, ip:port or :port.
    #[arg(long, env = "OUTRIGGER_WEBHOOK_LISTEN", default_value = ":9443")]
    webhook_listen: String,
    /// Where /livez, /readyz, /metrics and /status are, ip:port or :port.
    #[arg(long, env = "OUTRIGGER_ADMIN", default_value = ":9001")]
    admin: String,
    /// How long the certificate authority is valid, in seconds, a minute to ten years; it is followed by another one
    /// after two thirds of that.
    #[arg(long, env = "OUTRIGGER_CA_LIFETIME", default_value = "31536000")]
    ca_lifetime: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Asks a gateway for one completion until it gives one; what `helm test` runs.
    Check(CheckFlags),
}

#[derive(Debug, clap::Args)]
struct CheckFlags {
    /// The gateway, http://host[:port].
    #[arg(long)]
    url: String,
    /// The model to ask for.
    #[arg(long)]
    model: String,
    /// For how long it is asked, such as 150s, up to 1h.
    #[arg(long, default_value = "60s")]
    within: String,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Task {
    /// Run the operator.
    Run(Box<Config>),
    /// Ask for a completion.
    Check(Check),
}

/// The operator's configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica's pod.
    pub pod_name: String,
    /// Its address.
    pub pod_ip: IpAddr,
    /// The Service of all replicas.
    pub service: String,
    /// The Lease.
    pub lease: String,
    /// The service account of gateways.
    pub gateway_service_account: String,
    /// The webhook configurations' name.
    pub webhook_name: Option<String>,
    /// Where the table is served.
    pub table_listen: SocketAddr,
    /// Where admission is served.
    pub webhook_listen: SocketAddr,
    /// Where probes and metrics are.
    pub admin: SocketAddr,
    /// How long the certificate authority is valid.
    pub ca_lifetime: Duration,
    /// Secrets with which the sidecar's image is brought to nodes.
    pub pull_secrets: Vec<String>,
    /// What pods are told.
    pub installation: Installation,
}

impl Task {
    /// Reads arguments (the program's name first) and environment; prints what is wrong with them.
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
        let mut mistakes = Mistakes::default();
        let task = match &flags.command {
            Some(Command::Check(check)) => {
                Check::read(&check.url, &check.model, &check.within, &mut mistakes).map(Self::Check)
            }
            None => {
                let environment = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
                mistakes.unknown_environment(environment, &VARIABLES);
                Config::mean(&flags, &mut mistakes).map(|config| Self::Run(Box::new(config)))
            }
        };
        mistakes.finish(NAME)?;
        task.ok_or(ExitCode::from(EX_USAGE))
    }
}

impl Config {
    fn mean(flags: &Flags, mistakes: &mut Mistakes) -> Option<Self> {
        let table_listen = listen(mistakes, "--table-listen", &flags.table_listen);
        let webhook_listen = listen(mistakes, "--webhook-listen", &flags.webhook_listen);
        let admin = listen(mistakes, "--admin", &flags.admin);
        let pod_ip = mistakes.parse("--pod-ip", Some(&flags.pod_ip), "an IP address");
        for (name, value) in [
            ("--namespace", &flags.namespace),
            ("--pod-name", &flags.pod_name),
            ("--service", &flags.service),
            ("--lease", &flags.lease),
            ("--gateway-service-account", &flags.gateway_service_account),
        ] {
            name_of(mistakes, name, value);
        }
        let secrets = flags.image_pull_secrets.split(',').map(str::trim).filter(|name| !name.is_empty());
        let pull_secrets: Vec<String> = secrets.map(str::to_owned).collect();
        pull_secrets.iter().for_each(|secret| name_of(mistakes, "--image-pull-secrets", secret));
        let image = &flags.sidecar_image;
        if image.is_empty() || image.chars().any(char::is_whitespace) {
            mistakes
                .push(Mistake::new("--sidecar-image", format!("`{image}` is no image; expected: name:tag")));
        }
        let policies = ["Always", "IfNotPresent", "Never"];
        if let Some(policy) = flags.image_pull_policy.as_deref().filter(|policy| !policies.contains(policy)) {
            let message = format!("`{policy}` is not known; allowed: {}", policies.join(", "));
            mistakes.push(Mistake::new("--image-pull-policy", message));
        }
        let lifetime = lifetime(mistakes, &flags.ca_lifetime);
        let table_port = table_listen?.port();
        Some(Self {
            pod_name: flags.pod_name.clone(),
            pod_ip: pod_ip?,
            service: flags.service.clone(),
            lease: flags.lease.clone(),
            gateway_service_account: flags.gateway_service_account.clone(),
            webhook_name: flags.webhook_name.clone(),
            table_listen: table_listen?,
            webhook_listen: webhook_listen?,
            admin: admin?,
            ca_lifetime: lifetime?,
            pull_secrets,
            installation: Installation {
                namespace: flags.namespace.clone(),
                table: format!("{}.{}.svc:{table_port}", flags.service, flags.namespace),
                sidecar_image: flags.sidecar_image.clone(),
                pull_policy: flags.image_pull_policy.clone(),
            },
        })
    }
}

/// `ip:port`, or `:port` for all addresses.
fn listen(mistakes: &mut Mistakes, name: &str, text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        let port = mistakes.parse(name, Some(port), "ip:port or :port")?;
        return Some((Ipv6Addr::UNSPECIFIED, port).into());
    }
    mistakes.parse(name, Some(text), "ip:port or :port")
}

/// How long the certificate authority is valid.
fn lifetime(mistakes: &mut Mistakes, text: &str) -> Option<Duration> {
    let allowed = "60 to 315360000";
    let seconds: u64 = mistakes.parse("--ca-lifetime", Some(text), allowed)?;
    if (60..=315_360_000).contains(&seconds) {
        return Some(Duration::from_secs(seconds));
    }
    let message = format!("{seconds} is out of range; allowed: {allowed}");
    mistakes.push(Mistake::new("--ca-lifetime", message));
    None
}

/// Adds a mistake where `value` is no name.
fn name_of(mistakes: &mut Mistakes, flag: &str, value: &str) {
    if !is_name(value) {
        let allowed = "lower-case letters, digits and `-` or `.` between them, 1 to 253";
        mistakes.push(Mistake::new(flag, format!("`{value}` is no name; allowed: {allowed}")));
    }
}

/// Whether Kubernetes allows such a name.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= 253
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> (Option<Config>, Vec<String>) {
        let all = [NAME].into_iter().chain(args.iter().copied());
        let flags = Flags::try_parse_from(all).unwrap();
        let mut mistakes = Mistakes::default();
        let config = Config::mean(&flags, &mut mistakes);
        (config, mistakes.all().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_mistake_is_named_with_what_is_allowed() {
        let (config, mistakes) = of(&[
            "--namespace",
            "A",
            "--image-pull-policy",
            "Sometimes",
            "--admin",
            "nowhere",
            "--ca-lifetime",
            "1",
            "--image-pull-secrets",
            "fine, Not Fine",
        ]);
        assert!(config.is_none());
        for (name, word) in [
            ("--namespace", "`A`"),
            ("--pod-name", "allowed"),
            ("--pod-ip", "IP address"),
            ("--sidecar-image", "name:tag"),
            ("--image-pull-policy", "IfNotPresent"),
            ("--admin", ":port"),
            ("--ca-lifetime", "60 to"),
            ("--image-pull-secrets", "`Not Fine`"),
        ] {
            let found = mistakes.iter().find(|mistake| mistake.starts_with(name));
            assert!(found.is_some_and(|mistake| mistake.contains(word)), "{name}: {mistakes:#?}");
        }
    }

    #[test]
    fn pods_are_told_the_service_by_its_name() {
        let (config, mistakes) = of(&[
            "--namespace=sys",
            "--pod-name=a",
            "--pod-ip=10.0.0.1",
            "--sidecar-image=x:1",
            "--table-listen=:1234",
            "--image-pull-secrets=registry,mirror.key",
        ]);
        assert_eq!(mistakes, Vec::<String>::new());
        let config = config.unwrap();
        assert_eq!(config.installation.table, "outrigger-operator.sys.svc:1234");
        assert_eq!(config.table_listen.port(), 1234);
        assert_eq!(config.pull_secrets, ["registry", "mirror.key"]);
    }
}
