//! What went wrong with a cluster, in words that say what to do.

use super::connection::Connection;
use kube::Error;
use kube::core::Status;

/// What an admission policy's own words follow, in what the API server says.
const DENIED: &str = "denied request: ";

pub(super) fn words(error: &Error, connection: &Connection) -> String {
    match error {
        Error::Api(status) => refused(status, &connection.name, &connection.namespace, &connection.url),
        Error::Auth(error) => format!("the kubeconfig's user can't be used: {}", deepest(error)),
        Error::SerdeError(error) => {
            format!("what the cluster says can't be read, perhaps by a newer version only: {error}")
        }
        other => format!("the cluster at {} can't be asked: {}", connection.url, deepest(other)),
    }
}

/// What the API server refused, and what to do about it.
pub(super) fn refused(status: &Status, name: &str, namespace: &str, url: &str) -> String {
    let details = status.details.as_ref().map(|details| details.name.as_str()).unwrap_or_default();
    match status.code {
        401 => format!("the cluster at {url} does not know you: {}", status.message),
        403 if status.message.contains(DENIED) => own(&status.message),
        403 => format!(
            "{}. The ClusterRole outrigger-view lets you look, outrigger-edit change, outrigger-rollout-manager \
             promote, pause, resume and abort; ask for a RoleBinding to it in the namespace {namespace:?}",
            status.message
        ),
        404 if details == name => {
            format!("there is no ModelDeployment {name:?} in the namespace {namespace:?}")
        }
        404 => format!(
            "the cluster at {url} knows no ModelDeployments: install Outrigger there first, with its Helm chart"
        ),
        _ => own(&status.message),
    }
}

/// A policy's own words, where a policy refused.
fn own(message: &str) -> String {
    message.split_once(DENIED).map_or(message, |(_, own)| own).to_owned()
}

/// The cause at the bottom: what is above repeats it or names types.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
