//! The way to the API server, and what is read there.

use super::{Target, refusal};
use crate::view::EventView;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use outrigger_crds::ModelDeployment;
use std::future::Future;
use std::time::Duration;

/// One question to the API server takes at most this long.
const ANSWERS: Duration = Duration::from_secs(20);
/// Pods and events that are read at most: what people look at, not everything that there may be.
const MOST: u32 = 500;

/// A deployment's place in a cluster.
pub(super) struct Connection {
    pub(super) api: Api<ModelDeployment>,
    pods: Api<Pod>,
    events: Api<Event>,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) context: String,
    pub(super) url: String,
}

impl Connection {
    /// Finds the cluster. Nothing is asked there yet.
    pub(super) async fn open(target: &Target) -> Result<Self, String> {
        let (mut config, context) = configuration(target).await?;
        if let Some(user) = &target.user {
            let wrong = || format!("--as: a user's name can't be {user:?}");
            let header = "impersonate-user".parse().ok().zip(user.parse().ok()).ok_or_else(wrong)?;
            config.headers.push(header);
        }
        let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string();
        let client =
            Client::try_from(config).map_err(|error| format!("the kubeconfig can't be used: {error}"))?;
        Ok(Self {
            api: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            events: Api::namespaced(client, &namespace),
            name: target.name.clone(),
            namespace,
            context,
            url,
        })
    }

    /// Where the deployment is, in words.
    pub(super) fn place(&self) -> String {
        format!("{} in {}", self.namespace, self.context)
    }

    /// The deployment as it is now.
    pub(super) async fn get(&self) -> Result<ModelDeployment, String> {
        self.ask(self.api.get(&self.name)).await
    }

    /// Its pods; none where nobody may read them.
    pub(super) async fn pods(&self) -> Vec<Pod> {
        let params =
            ListParams::default().labels(&format!("outrigger.dev/deployment={}", self.name)).limit(MOST);
        self.ask(self.pods.list(&params)).await.map(|list| list.items).unwrap_or_default()
    }

    /// What was told of it, oldest first; nothing where nobody may read that.
    pub(super) async fn events(&self) -> Vec<EventView> {
        let fields = format!("involvedObject.kind=ModelDeployment,involvedObject.name={}", self.name);
        let params = ListParams::default().fields(&fields).limit(MOST);
        let list = self.ask(self.events.list(&params)).await.map(|list| list.items).unwrap_or_default();
        let mut events: Vec<EventView> = list.into_iter().filter_map(event).collect();
        events.sort_by_key(|event| event.at);
        events
    }

    /// Asks within bounds, and puts a refusal into words.
    pub(super) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(ANSWERS, question).await {
            Ok(answer) => answer.map_err(|error| refusal::words(&error, self)),
            Err(_) => Err(format!("the cluster at {} has not answered within 20 s", self.url)),
        }
    }
}

async fn configuration(target: &Target) -> Result<(Config, String), String> {
    let absent = |error: &dyn std::fmt::Display| {
        format!(
            "no cluster is known ({error}): set KUBECONFIG or give --kubeconfig; without a cluster, `outrigger up` \
             runs a deployment on this machine"
        )
    };
    let read = match &target.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).map_err(|error| format!("--kubeconfig: {error}"))?,
        None => match Kubeconfig::read() {
            Ok(read) => read,
            Err(error) if target.context.is_some() => return Err(absent(&error)),
            Err(error) => {
                let config = Config::incluster().map_err(|_| absent(&error))?;
                return Ok((config, "this cluster".to_owned()));
            }
        },
    };
    let known: Vec<String> = read.contexts.iter().map(|context| context.name.clone()).collect();
    let context = target.context.clone().or_else(|| read.current_context.clone()).unwrap_or_default();
    if !known.contains(&context) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(match context.is_empty() {
            true => format!("the kubeconfig has no current context: give --context; it has {known}"),
            false => format!("the kubeconfig has no context {context:?}; it has {known}"),
        });
    }
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(read, &options).await;
    config.map(|config| (config, context)).map_err(|error| format!("the kubeconfig can't be used: {error}"))
}

/// An event as people read it.
fn event(event: Event) -> Option<EventView> {
    let first = event.event_time.map(|time| time.0).or(event.first_timestamp.map(|time| time.0));
    let series = event.series.and_then(|series| series.last_observed_time).map(|time| time.0);
    let at: Timestamp = series.or(event.last_timestamp.map(|time| time.0)).or(first)?;
    Some(EventView {
        at,
        warning: event.type_.as_deref() == Some("Warning"),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    })
}
