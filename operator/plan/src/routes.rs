//! What proxies are told: a pure function of the status that the leader wrote and of the replicas, so that any
//! replica of the operator can serve it.

use crate::healing;
use crate::world::{Declared, Phase, Replica};
use outrigger_crds::ModelDeploymentStatus;
use outrigger_wire::{BasisPoints, Endpoint, EndpointConfig, RevisionId, RevisionRoute, Routes};

/// What gateways are told. A revision that the status does not name gets no request, whatever replicas it has.
pub fn routes(declared: &Declared, status: &ModelDeploymentStatus, replicas: &[Replica]) -> Routes {
    let spec = &declared.spec;
    let route = |revision: &RevisionId| RevisionRoute {
        revision: revision.clone(),
        endpoints: replicas.iter().filter(|r| r.revision == *revision).filter_map(endpoint).collect(),
    };
    Routes {
        deployment: declared.key.clone(),
        serial: status.serial,
        model: spec.model.name.clone(),
        aliases: spec.model.aliases.clone(),
        traffic: spec.traffic.clone(),
        timeouts: spec.serving.timeouts.clone(),
        max_queue_delay: spec.serving.admission.max_queue_delay,
        stable: status.stable.as_ref().map(route),
        canary: status.canary.as_ref().map(|canary| route(&canary.revision)),
        weight: if status.canary.is_some() { status.weights.desired } else { BasisPoints::ZERO },
        reference: status.reference,
    }
}

/// What each replica's sidecar is told, those that drain included.
pub fn endpoints(
    declared: &Declared,
    status: &ModelDeploymentStatus,
    replicas: &[Replica],
) -> Vec<EndpointConfig> {
    let config = |replica: &Replica| EndpointConfig {
        endpoint: replica.id.clone(),
        deployment: declared.key.clone(),
        serial: status.serial,
        model: declared.spec.model.name.clone(),
        serving: declared.spec.serving.clone(),
        grant: healing::granted(declared.spec.serving.health.restart_budget, status, replica),
    };
    replicas.iter().map(config).collect()
}

/// A replica that may be sent to. One whose node is silent may serve as before: the API server may have been away, and
/// gateways notice by themselves who doesn't answer.
fn endpoint(replica: &Replica) -> Option<Endpoint> {
    let may = matches!(replica.phase, Phase::Ready | Phase::Unheard);
    let address = replica.address.clone().filter(|_| may)?;
    Some(Endpoint { id: replica.id.clone(), address })
}
