//! `spec.engine.resources`: names that a scheduler knows, amounts that go together.

use super::{Found, key};
use outrigger_crds::{Engine, Quantity, Resources};
use std::collections::BTreeSet;

/// The most resources in one list.
const MAX_RESOURCES: usize = 32;
/// Kubernetes' own resources of a container; `hugepages-SIZE` besides.
const NATIVE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// The domain of Kubernetes' own resources, which may be written out.
const OWN_DOMAIN: &str = "kubernetes.io/";

pub(super) fn resources(engine: &Engine, found: &mut Found) {
    let Some(resources) = &engine.resources else { return };
    let at = "spec.engine.resources";
    for (list, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        found.at_most(&format!("{at}.{list}"), "resources", amounts.len(), MAX_RESOURCES);
        for (name, amount) in amounts.iter().take(MAX_RESOURCES) {
            one(&key(&format!("{at}.{list}"), name), name, amount, found);
        }
    }
    for (name, requested) in &resources.requests {
        together(&key(&format!("{at}.requests"), name), name, requested, resources.limits.get(name), found);
    }
    claims(resources, &claims_of_pod(engine), found);
}

fn one(path: &str, name: &str, amount: &Quantity, found: &mut Found) {
    if !is_resource(name) {
        let allowed =
            "cpu, memory, ephemeral-storage, hugepages-SIZE, or a device plugin's, such as nvidia.com/gpu";
        found.add(path, format!("`{name}` is no resource of a node; allowed: {allowed}"));
    }
    match nanos(&amount.0) {
        None => {
            found.add(path, format!("`{}` is no amount; allowed: such as 2, 500m, 1.5 or 24Gi", amount.0))
        }
        Some(nanos) if is_extended(name) && nanos % NANO != 0 => {
            found.add(
                path,
                format!("{} is no whole number, and {name} can't be shared; allowed: 0, 1, 2, …", amount.0),
            );
        }
        Some(_) => {}
    }
}

fn together(path: &str, name: &str, requested: &Quantity, limit: Option<&Quantity>, found: &mut Found) {
    let Some(limit) = limit else {
        if is_extended(name) {
            let message =
                format!("{name} is requested without a limit; set limits.{name} (the request follows it)");
            found.add(path, message);
        }
        return;
    };
    let (Some(asked), Some(most)) = (nanos(&requested.0), nanos(&limit.0)) else { return };
    if is_extended(name) && asked != most {
        let message = format!(
            "{} differs from limits.{name} ({}); allowed: the same, or no request",
            requested.0, limit.0
        );
        found.add(path, message);
    } else if asked > most {
        found.add(path, format!("{} is more than limits.{name}; allowed: at most {}", requested.0, limit.0));
    }
}

fn claims(resources: &Resources, known: &BTreeSet<String>, found: &mut Found) {
    let at = "spec.engine.resources.claims";
    found.at_most(at, "claims", resources.claims.len(), MAX_RESOURCES);
    for (i, claim) in resources.claims.iter().enumerate().take(MAX_RESOURCES) {
        if !known.contains(&claim.name) {
            let shown: Vec<&str> = known.iter().map(String::as_str).collect();
            let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
            let message = format!(
                "`{}` is no claim of the pod; those of engine.podTemplate.spec.resourceClaims: {shown}",
                claim.name
            );
            found.add(format!("{at}[{i}].name"), message);
        }
    }
}

fn claims_of_pod(engine: &Engine) -> BTreeSet<String> {
    let template = engine.pod_template.as_ref().and_then(|template| template.read().ok());
    let claims = template.and_then(|template| template.spec?.resource_claims).unwrap_or_default();
    claims.into_iter().map(|claim| claim.name).collect()
}

/// Whether a device plugin or the like offers it, in whole pieces that belong to one container.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.starts_with(OWN_DOMAIN)
}

fn is_resource(name: &str) -> bool {
    let plain = name.strip_prefix(OWN_DOMAIN).unwrap_or(name);
    if NATIVE.contains(&plain) || plain.strip_prefix("hugepages-").is_some_and(|size| nanos(size).is_some()) {
        return true;
    }
    let Some((domain, kind)) = name.split_once('/') else { return false };
    let word = |text: &str, dots: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || dots.contains(c);
        let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= 63
            && text.chars().all(inner)
            && outer(text.chars().next())
            && outer(text.chars().next_back())
    };
    domain.len() <= 253 && domain.split('.').all(|part| word(part, "-")) && word(kind, "-_.")
}

const NANO: u128 = 1_000_000_000;

/// An amount in billionths, rounded up as Kubernetes does. None: it is no amount, or none that a node could have.
pub(crate) fn nanos(text: &str) -> Option<u128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(digits)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') || number.len() > 30 {
        return None;
    }
    let part: String = part.chars().take(18).collect();
    let scale = 10u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let number = format!("{whole}{part}").parse::<u128>().ok()?;
    let (up, down) = factor(suffix)?;
    let product = number.checked_mul(up)?;
    Some(product.div_ceil(scale.checked_mul(down)?))
}

/// What a suffix multiplies billionths by, and divides them by.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    let decimal = |power: i32| {
        let of = |power: i32| 10u128.checked_pow(u32::try_from(power).ok()?);
        if power >= -9 { Some((of(power + 9)?, 1)) } else { Some((1, of(-9 - power)?)) }
    };
    match suffix {
        "n" => return decimal(-9),
        "u" => return decimal(-6),
        "m" => return decimal(-3),
        "" => return decimal(0),
        _ => {}
    }
    if let Some(at) = "kMGTPE".find(suffix).filter(|_| suffix.len() == 1) {
        return decimal(3 * (i32::try_from(at).ok()? + 1));
    }
    if let Some(letter) = suffix.strip_suffix('i').filter(|letter| letter.len() == 1) {
        let at = "KMGTPE".find(letter)?;
        return Some((NANO.checked_mul(1u128 << (10 * (at + 1)))?, 1));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
    if exponent.abs() <= 18 { decimal(exponent) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("1", NANO),
            ("+1", NANO),
            ("0", 0),
            ("500m", NANO / 2),
            ("1.5", NANO * 3 / 2),
            (".5", NANO / 2),
            ("1.", NANO),
            ("1k", 1000 * NANO),
            ("1Ki", 1024 * NANO),
            ("2Gi", 2 * (1 << 30) * NANO),
            ("1e3", 1000 * NANO),
            ("1E3", 1000 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("5e-3", 5_000_000),
            ("100u", 100_000),
            ("1n", 1),
            ("0.1n", 1),
        ] {
            assert_eq!(nanos(text), Some(expected), "{text}");
        }
        for text in ["", ".", "m", "-1", "1.2.3", "1 Gi", "1gi", "1KI", "1x", "e3", "1e", "1e99", "٣", "1mm"]
        {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    #[test]
    fn resources_are_known_by_name_or_by_domain() {
        for name in
            ["cpu", "memory", "hugepages-2Mi", "nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "kubernetes.io/cpu"]
        {
            assert!(is_resource(name), "{name}");
        }
        for name in [
            "",
            "gpu",
            "CPU",
            "nvidia.com/",
            "/gpu",
            "nvidia..com/gpu",
            "a/b/c",
            "hugepages-",
            "nvidia.com/gpu ",
        ] {
            assert!(!is_resource(name), "{name}");
        }
    }

    fn mistakes_of(resources: BTreeMap<&str, BTreeMap<&str, serde_json::Value>>) -> Vec<String> {
        let engine = serde_json::json!({"image": "a:1", "resources": resources});
        let mut found = Found(Vec::new());
        super::resources(&serde_json::from_value(engine).unwrap(), &mut found);
        found.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn devices_are_whole_and_asked_for_by_their_limit() {
        let of = |limit: serde_json::Value, request: serde_json::Value| {
            let list = |value: serde_json::Value| {
                if value.is_null() { BTreeMap::new() } else { BTreeMap::from([("nvidia.com/gpu", value)]) }
            };
            mistakes_of(BTreeMap::from([("limits", list(limit)), ("requests", list(request))]))
        };
        let none = serde_json::Value::Null;
        assert!(of(1.into(), none.clone()).is_empty());
        assert!(of(1.into(), "1000m".into()).is_empty());
        for (limit, request, place) in [
            ("500m".into(), none.clone(), "spec.engine.resources.limits[nvidia.com/gpu]: 500m"),
            (2.into(), 1.into(), "spec.engine.resources.requests[nvidia.com/gpu]: 1 differs"),
            (none, 1.into(), "spec.engine.resources.requests[nvidia.com/gpu]: nvidia.com/gpu is requested"),
        ] {
            let found = of(limit, request);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(place), "{found:?}");
        }
    }
}
