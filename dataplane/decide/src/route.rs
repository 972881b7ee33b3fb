//! Which deployment a name belongs to.

use outrigger_wire::{DeploymentKey, Mistake, Routes};
use std::collections::HashMap;
use std::sync::Arc;

/// The names of all deployments, built once per table.
#[derive(Clone, Debug)]
pub struct Names<T> {
    by_name: HashMap<String, Named<T>>,
    conflicts: Vec<Conflict>,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// The deployment.
    pub target: T,
    /// The engines' name for the model, where the name that was asked for is only an alias.
    pub rename: Option<Arc<str>>,
}

/// Two deployments claim one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The name.
    pub name: String,
    /// Who keeps it.
    pub keeps: DeploymentKey,
    /// Who doesn't get it.
    pub loses: DeploymentKey,
}

impl<T: Clone> Names<T> {
    /// The names of these deployments, each with what it leads to.
    ///
    /// Of two that claim one name the first by (namespace/name) keeps it, whether it is a name or an alias there:
    /// an order that every gateway finds alike, whatever it heard first. The table carries no ages; whoever makes
    /// it and knows them leaves the younger one's name out.
    pub fn new<'a>(deployments: impl IntoIterator<Item = (&'a Routes, T)>) -> Self {
        let mut sorted: Vec<_> = deployments.into_iter().collect();
        sorted.sort_by(|a, b| a.0.deployment.cmp(&b.0.deployment));
        let mut owners: HashMap<String, DeploymentKey> = HashMap::new();
        let mut names = Self { by_name: HashMap::new(), conflicts: Vec::new() };
        for (routes, target) in sorted {
            let model: Arc<str> = routes.model.as_str().into();
            let own = std::iter::once((&routes.model, None));
            let aliases = routes.aliases.iter().map(|alias| (alias, Some(Arc::clone(&model))));
            for (name, rename) in own.chain(aliases) {
                match owners.get(name) {
                    Some(keeps) if *keeps != routes.deployment => names.conflicts.push(Conflict {
                        name: name.clone(),
                        keeps: keeps.clone(),
                        loses: routes.deployment.clone(),
                    }),
                    // An alias that repeats the deployment's own name.
                    Some(_) => {}
                    None => {
                        owners.insert(name.clone(), routes.deployment.clone());
                        names.by_name.insert(name.clone(), Named { target: target.clone(), rename });
                    }
                }
            }
        }
        names
    }

    /// What this name leads to.
    pub fn find(&self, name: &str) -> Option<&Named<T>> {
        self.by_name.get(name)
    }

    /// All names, sorted: what `/v1/models` lists.
    pub fn sorted(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The claims that were not granted.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}

/// Everything that is wrong with routes written by hand, each under `at` (`routes[0]`).
pub fn check(routes: &Routes, at: &str) -> Vec<Mistake> {
    let mut found = routes.traffic.check(&format!("{at}.traffic"));
    let serving = outrigger_wire::Serving {
        timeouts: routes.timeouts.clone(),
        admission: outrigger_wire::serving::Admission {
            max_queue_delay: routes.max_queue_delay,
            ..Default::default()
        },
        ..Default::default()
    };
    found.extend(serving.check(at).into_iter().map(|mistake| Mistake {
        path: mistake.path.replace(".admission.maxQueueDelay", ".maxQueueDelay"),
        ..mistake
    }));
    if routes.deployment.as_str().is_empty() {
        found.push(Mistake::new(format!("{at}.deployment"), "is empty; allowed: namespace/name"));
    }
    let names = std::iter::once(("model".to_owned(), &routes.model));
    let aliases = routes.aliases.iter().enumerate().map(|(i, alias)| (format!("aliases[{i}]"), alias));
    for (field, name) in names.chain(aliases) {
        if name.is_empty() || name.len() > crate::model::MAX_NAME {
            let allowed = crate::model::MAX_NAME;
            found.push(Mistake::new(
                format!("{at}.{field}"),
                format!("has {} bytes; allowed: 1 to {allowed}", name.len()),
            ));
        }
    }
    for (side, route) in [("stable", &routes.stable), ("canary", &routes.canary)] {
        for (i, endpoint) in route.iter().flat_map(|route| &route.endpoints).enumerate() {
            if endpoint.address.parse::<std::net::SocketAddr>().is_err() {
                found.push(Mistake::new(
                    format!("{at}.{side}.endpoints[{i}].address"),
                    format!("`{}` is not an address; allowed: ip:port", endpoint.address),
                ));
            }
        }
    }
    if routes.weight != outrigger_wire::BasisPoints::ZERO && routes.canary.is_none() {
        found.push(Mistake::new(
            format!("{at}.weight"),
            format!("{} without a canary; allowed: 0, or give `canary`", routes.weight.get()),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_wire::BasisPoints;

    fn routes(key: &str, model: &str, aliases: &[&str]) -> Routes {
        Routes {
            deployment: key.into(),
            serial: 1,
            model: model.to_owned(),
            aliases: aliases.iter().map(|&a| a.to_owned()).collect(),
            traffic: Default::default(),
            timeouts: Default::default(),
            max_queue_delay: Default::default(),
            stable: None,
            canary: None,
            weight: BasisPoints::ZERO,
            reference: None,
        }
    }

    #[test]
    fn names_and_aliases_lead_to_their_deployment() {
        let chat = routes("default/chat", "llama", &["chat", "llama"]);
        let names = Names::new([(&chat, 7)]);
        assert_eq!(names.find("llama"), Some(&Named { target: 7, rename: None }));
        assert_eq!(names.find("chat"), Some(&Named { target: 7, rename: Some("llama".into()) }));
        assert_eq!(names.find("Llama"), None);
        assert_eq!(names.sorted(), ["chat", "llama"]);
        assert!(names.conflicts().is_empty());
    }

    /// The same one keeps the name in whichever order they were heard of.
    #[test]
    fn one_name_has_one_owner() {
        let (a, b) = (routes("a/x", "own", &["shared"]), routes("b/x", "shared", &["own"]));
        for order in [[(&a, 'a'), (&b, 'b')], [(&b, 'b'), (&a, 'a')]] {
            let names = Names::new(order);
            assert_eq!(names.find("shared").map(|named| named.target), Some('a'));
            assert_eq!(names.find("own").map(|named| named.target), Some('a'));
            assert_eq!(names.conflicts().len(), 2);
            assert!(names.conflicts().iter().all(|c| c.keeps == "a/x".into() && c.loses == "b/x".into()));
        }
    }

    #[test]
    fn mistakes_name_their_field() {
        let mut wrong = routes("", "", &[""]);
        wrong.weight = BasisPoints::percent(5);
        wrong.timeouts.first_byte = outrigger_wire::Period::secs(400);
        wrong.max_queue_delay = outrigger_wire::Period::secs(900);
        wrong.stable = Some(outrigger_wire::RevisionRoute {
            revision: "r".into(),
            endpoints: vec![outrigger_wire::Endpoint { id: "e".into(), address: "localhost".into() }],
        });
        let paths: Vec<String> = check(&wrong, "routes[0]").into_iter().map(|m| m.path).collect();
        assert_eq!(
            paths,
            [
                "routes[0].maxQueueDelay",
                "routes[0].timeouts.firstByte",
                "routes[0].deployment",
                "routes[0].model",
                "routes[0].aliases[0]",
                "routes[0].stable.endpoints[0].address",
                "routes[0].weight",
            ]
        );
        assert!(check(&routes("a/b", "m", &[]), "routes[0]").is_empty());
    }
}
