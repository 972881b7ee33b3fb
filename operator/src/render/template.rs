//! The pods' template: what the resource's fields say, then the user's template, then what was left open, then the
//! sidecar.

use super::{Input, engine, label_selector, labels, selector};
use crate::{names, pod};
use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_plan::{Workload, revision};
use outrigger_wire::Mistake;

/// Where the user's template stands, for mistakes.
const AT: &str = "spec.engine.podTemplate";

/// The template of a workload's pods.
pub(super) fn template(input: &Input<'_>, workload: &Workload) -> Result<PodTemplateSpec, Vec<Mistake>> {
    let engine = &workload.engine;
    let mut template = PodTemplateSpec {
        metadata: None,
        spec: Some(PodSpec { containers: vec![engine::base(engine)], ..PodSpec::default() }),
    };
    if let Some(users) = &engine.pod_template {
        let users = users.read().map_err(|e| vec![Mistake::new(AT, e.to_string())])?;
        template.merge_from(users);
    }
    let spec = template.spec.get_or_insert_default();
    for container in spec.containers.iter_mut().filter(|container| container.name == names::ENGINE_CONTAINER)
    {
        engine::complete(container, engine);
    }
    complete(spec, input, workload);
    // Last, so that no label of the user's makes a pod of one revision one of another.
    let metadata = template.metadata.get_or_insert_with(ObjectMeta::default);
    metadata.labels.get_or_insert_default().extend(labels(input.key, Some(&workload.revision)));
    pod::add_sidecar(&mut template, names::ENGINE_CONTAINER, &sidecar(input, workload))
        .map_err(|mistakes| mistakes.into_iter().map(under_template).collect::<Vec<_>>())?;
    Ok(template)
}

fn under_template(mistake: Mistake) -> Mistake {
    Mistake { path: format!("{AT}.{}", mistake.path), ..mistake }
}

/// What of the pod the user left open.
fn complete(spec: &mut PodSpec, input: &Input<'_>, workload: &Workload) {
    // An engine has no business with the API server.
    spec.automount_service_account_token.get_or_insert(false);
    // Variables of every Service of the namespace: some engines take `VLLM_PORT` and the like for their own.
    spec.enable_service_links.get_or_insert(false);
    // Replicas on several nodes where that is possible: a node that is lost takes one of them.
    let pods = selector(input.key, Some(workload.revision.as_str()));
    let placed =
        spec.affinity.as_ref().is_some_and(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some());
    if !placed {
        spec.topology_spread_constraints.get_or_insert_with(|| {
            vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                label_selector: Some(label_selector(pods)),
                ..TopologySpreadConstraint::default()
            }]
        });
    }
}

fn sidecar(input: &Input<'_>, workload: &Workload) -> pod::Sidecar {
    let engine = &workload.engine;
    pod::Sidecar {
        image: input.installation.sidecar_image.clone(),
        pull_policy: input.installation.pull_policy.clone(),
        kind: engine.kind.unwrap_or_default(),
        model: input.spec.model.name.clone(),
        engine_port: revision::http_port(engine),
        listen: (names::DATA_PORT.0.to_owned(), names::DATA_PORT.1),
        max_drain: input.spec.serving.max_drain.0,
        deployment: Some(input.key.clone()),
        table: Some(input.installation.table.clone()),
    }
}
