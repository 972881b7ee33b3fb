//! What stands around the pods: Service, PodDisruptionBudget, NetworkPolicy.

use super::{Input, label_selector, metadata, selector, split};
use crate::names;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeSet;

/// What the Service selects while there is no revision: no pod has it, as revisions are hexadecimal digits.
const NO_REVISION: &str = "none";
/// The Service's port.
const SERVICE_PORT: i32 = 80;

/// The revision that serves, or that is to.
fn serves<'a>(input: &Input<'a>) -> &'a str {
    let starting = || input.status.starting.as_ref().map(|starting| &starting.revision);
    input.status.stable.as_ref().or_else(starting).map_or(NO_REVISION, |id| id.as_str())
}

/// The stable revision's pods, at the sidecar; before there is one, those of the revision that is to become it as soon
/// as one of them is ready, which is what makes a pod an endpoint too. A canary is reached through gateways alone.
pub(super) fn service(input: &Input<'_>) -> Service {
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: SERVICE_PORT,
        protocol: Some("TCP".to_owned()),
        // By number: the name of a native sidecar's port is not looked up by every version of Kubernetes.
        target_port: Some(IntOrString::Int(i32::from(names::DATA_PORT.1))),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(input.uid, input.key, split(input.key).1.to_owned(), None),
        spec: Some(ServiceSpec {
            selector: Some(selector(input.key, Some(serves(input)))),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// One replica of the revision that serves at a time. With one replica alone a budget would keep its node from ever
/// being emptied; a canary is none of its matter: one that waits for a GPU would keep every node from being emptied,
/// the autoscaler's that is to bring it included.
pub(super) fn disruption_budget(input: &Input<'_>) -> Option<PodDisruptionBudget> {
    (input.spec.scale.replicas >= 2).then(|| PodDisruptionBudget {
        metadata: metadata(input.uid, input.key, split(input.key).1.to_owned(), None),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(label_selector(selector(input.key, Some(serves(input))))),
            // A replica that isn't ready serves nobody, so nothing is lost by evicting it.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}

/// The pods are reached at the sidecar, and at the ports that further containers of the user declare. The engine's
/// own port is reached from its pod alone.
pub(super) fn network_policy(input: &Input<'_>, replica_sets: &[ReplicaSet]) -> NetworkPolicy {
    let mut open = BTreeSet::from([i32::from(names::DATA_PORT.1), i32::from(names::ADMIN_PORT.1)].map(tcp));
    let templates = replica_sets.iter().filter_map(|set| set.spec.as_ref()?.template.as_ref()?.spec.as_ref());
    for spec in templates {
        let others = spec.containers.iter().filter(|container| container.name != names::ENGINE_CONTAINER);
        let further = others.chain(spec.init_containers.iter().flatten());
        let ports = further.flat_map(|container| container.ports.iter().flatten());
        open.extend(
            ports
                .map(|port| (port.container_port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()))),
        );
    }
    let ports = open.into_iter().map(|(port, protocol)| NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some(protocol),
        end_port: None,
    });
    NetworkPolicy {
        metadata: metadata(input.uid, input.key, split(input.key).1.to_owned(), None),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(label_selector(selector(input.key, None))),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: None, ports: Some(ports.collect()) }]),
            egress: None,
        }),
    }
}

fn tcp(port: i32) -> (i32, String) {
    (port, "TCP".to_owned())
}
