//! `outrigger status`: one look.

use super::connection::Connection;
use super::{Target, print, seen, tree};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use outrigger_wire::document as yaml;

/// Says how a deployment in a cluster is: what serves, what is tried, how it is judged, and why it waits.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// The resource's whole status as YAML.
    Yaml,
    /// The resource's whole status as JSON.
    Json,
}

pub(super) async fn status(args: &StatusArgs) -> Result<u8, String> {
    let connection = Connection::open(&args.target).await?;
    let object = connection.get().await?;
    let status = object.status.clone().unwrap_or_default();
    let text = match args.output {
        Output::Yaml => yaml::write(&status).map_err(|mistake| mistake.to_string())?,
        Output::Json => serde_json::to_string_pretty(&status).map_err(|e| e.to_string())? + "\n",
        Output::Text => {
            let (pods, events) = tokio::join!(connection.pods(), connection.events());
            let place = connection.place();
            let view = seen::view(seen::From {
                now: Timestamp::now(),
                place: &place,
                object: &object,
                pods: &pods,
                events,
                promoted: None,
            });
            tree::tree(&view, &status)
        }
    };
    print(&text).map(|()| 0)
}
