//! The last table, kept on disk: a gateway that starts while no server answers serves from it.

use crate::client::Table;
use outrigger_wire::{EndpointConfig, Routes};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// The file's name in the state folder.
const FILE: &str = "table.json";
/// The first word of the file; a later layout gets another.
const FORMAT: &str = "outrigger-table-1";

#[derive(Serialize, Deserialize)]
struct Content {
    routes: Vec<Routes>,
    endpoint: Option<EndpointConfig>,
}

/// The table that was kept in this folder; an empty one when there is none or it is damaged.
pub(crate) fn load(folder: &Path) -> Table {
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "the kept table is damaged; starting without one");
            Table::default()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Table::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept table can't be read; starting without one");
            Table::default()
        }
    }
}

/// Keeps this table: written beside and renamed, so that a crash leaves the old one or the new one.
pub(crate) fn store(folder: &Path, table: &Table) -> io::Result<()> {
    let content = Content {
        routes: table.routes.values().map(|routes| (**routes).clone()).collect(),
        endpoint: table.endpoint.as_deref().cloned(),
    };
    let json = serde_json::to_string(&content)?;
    fs::create_dir_all(folder)?;
    let fresh = folder.join(format!("{FILE}.new"));
    let mut file = fs::File::create(&fresh)?;
    file.write_all(format!("{FORMAT} {:016x}\n{json}\n", checksum(&json)).as_bytes())?;
    file.sync_all()?;
    fs::rename(fresh, folder.join(FILE))
}

fn parse(text: &str) -> Option<Table> {
    let (head, json) = text.trim_end().split_once('\n')?;
    let (format, sum) = head.split_once(' ')?;
    if format != FORMAT || u64::from_str_radix(sum, 16).ok()? != checksum(json) {
        return None;
    }
    let content: Content = serde_json::from_str(json).ok()?;
    let routes = content.routes.into_iter().map(|routes| (routes.deployment.clone(), Arc::new(routes)));
    Some(Table { routes: routes.collect(), endpoint: content.endpoint.map(Arc::new), live: false })
}

fn checksum(json: &str) -> u64 {
    outrigger_wire::stream::Version::of(0, json.as_bytes()).content
}
