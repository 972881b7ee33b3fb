//! Which container is the engine, of which kind it is, and which of its ports callers use.

use super::{CONTAINER, ENGINE_KIND, PORT, Reason, Refusal, annotation, arguments};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};
use outrigger_wire::EngineKind;

/// The engine, found.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    /// Which of `spec.containers`.
    pub(super) index: usize,
    /// Its kind.
    pub(super) kind: EngineKind,
    /// The port that callers use.
    pub(super) port: Port,
}

impl Engine {
    /// The container's path from the pod's root.
    pub(super) fn path(&self) -> String {
        format!("spec.containers[{}]", self.index)
    }
}

/// The port that callers use.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// Its number.
    pub(super) number: u16,
    /// Its name, where it has one.
    pub(super) name: Option<String>,
    /// Which of the container's `ports`, where it stands there.
    pub(super) declared: Option<usize>,
}

/// The engine of a pod.
pub(super) fn engine(pod: &Pod, spec: &PodSpec) -> Result<Engine, Refusal> {
    let (index, container) = container(pod, spec)?;
    let kind = kind(pod, container)?;
    let path = format!("spec.containers[{index}]");
    let said = match kind {
        EngineKind::VLlm => arguments::port_of_vllm(container, &path)?,
        EngineKind::MLServer => arguments::port_of_mlserver(container, &path)?,
        EngineKind::Custom => None,
    };
    let port = port(pod, container, &path, kind, said)?;
    if let Some(said) = said.filter(|said| *said != port.number) {
        let message = format!(
            "{} is what callers would use, but the engine is told to listen on {said}; let them agree",
            port.number
        );
        return Err(Refusal::new(Reason::Port, format!("{path}.ports"), message));
    }
    on_the_node(container, &port, &path)?;
    Ok(Engine { index, kind, port })
}

fn container<'a>(pod: &Pod, spec: &'a PodSpec) -> Result<(usize, &'a Container), Refusal> {
    let all = || spec.containers.iter().enumerate();
    let names = || spec.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = annotation(pod, CONTAINER) {
        return all().find(|(_, container)| container.name == wanted).ok_or_else(|| {
            let message = format!("`{wanted}` is no container of this pod; allowed: {}", names());
            Refusal::new(Reason::Annotation, of_annotation(CONTAINER), message)
        });
    }
    let named = |name: &str| all().find(|(_, container)| container.name == name);
    let only = match spec.containers.as_slice() {
        [only] => Some((0, only)),
        _ => None,
    };
    only.or_else(|| named("engine")).or_else(|| named("model")).ok_or_else(|| {
        let message = format!(
            "it isn't said which of them is the engine: {}; set the annotation {CONTAINER} to one of them",
            names()
        );
        Refusal::new(Reason::Container, "spec.containers", message)
    })
}

fn of_annotation(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

fn kind(pod: &Pod, container: &Container) -> Result<EngineKind, Refusal> {
    let Some(wanted) = annotation(pod, ENGINE_KIND) else {
        return Ok(guess(container.image.as_deref().unwrap_or_default()));
    };
    let kinds = [EngineKind::VLlm, EngineKind::MLServer, EngineKind::Custom];
    kinds.into_iter().find(|kind| kind.as_str() == wanted).ok_or_else(|| {
        let message = format!("`{wanted}` is no engine kind; allowed: vLLM, MLServer, Custom");
        Refusal::new(Reason::Annotation, of_annotation(ENGINE_KIND), message)
    })
}

/// From an image's name, without registry, tag and digest. Engines that are wrapped in something else are custom
/// ones until an annotation says more.
pub(super) fn guess(image: &str) -> EngineKind {
    let name = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let name = name.split(':').next().unwrap_or_default();
    if name == "vllm" || name.starts_with("vllm-openai") || name.starts_with("vllm-cpu") {
        EngineKind::VLlm
    } else if name == "mlserver" || name.starts_with("mlserver-") {
        EngineKind::MLServer
    } else {
        EngineKind::Custom
    }
}

/// Where an engine of this kind listens when nobody says otherwise.
const fn usual(kind: EngineKind) -> Option<u16> {
    match kind {
        EngineKind::VLlm => Some(8000),
        EngineKind::MLServer => Some(8080),
        EngineKind::Custom => None,
    }
}

fn port(
    pod: &Pod,
    container: &Container,
    path: &str,
    kind: EngineKind,
    said: Option<u16>,
) -> Result<Port, Refusal> {
    let tcp = declared(container);
    if let Some(wanted) = annotation(pod, PORT) {
        return annotated(wanted, &tcp);
    }
    let named = |name: &str| tcp.iter().find(|port| port.name.as_deref() == Some(name));
    let numbered = |number: u16| tcp.iter().find(|port| port.number == number);
    let own = said.or(usual(kind));
    let only = match tcp.as_slice() {
        [only] => Some(only),
        _ => None,
    };
    let found = named("http").or(only).or_else(|| own.and_then(numbered));
    match (found, own) {
        (Some(port), _) => Ok(port.clone()),
        (None, Some(number)) if tcp.is_empty() => Ok(Port { number, name: None, declared: None }),
        _ => {
            let message = format!(
                "it isn't said which of them callers use: {}; name one of them `http`, or set the annotation {PORT} \
                 to its name",
                shown(&tcp)
            );
            Err(Refusal::new(Reason::Port, format!("{path}.ports"), message))
        }
    }
}

fn annotated(wanted: &str, tcp: &[Port]) -> Result<Port, Refusal> {
    let number: Option<u16> = wanted.parse().ok().filter(|number| *number > 0);
    let found = tcp.iter().find(|p| p.name.as_deref() == Some(wanted) || Some(p.number) == number).cloned();
    let undeclared = number.map(|number| Port { number, name: None, declared: None });
    found.or(undeclared).ok_or_else(|| {
        let message = format!(
            "`{wanted}` is no port of the engine's container; allowed: a number, or one of {}",
            shown(tcp)
        );
        Refusal::new(Reason::Annotation, of_annotation(PORT), message)
    })
}

/// The TCP ports of a container.
fn declared(container: &Container) -> Vec<Port> {
    let all = container.ports.iter().flatten().enumerate();
    let tcp = all.filter(|(_, port)| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.filter_map(|(i, port)| {
        let number = u16::try_from(port.container_port).ok().filter(|number| *number > 0)?;
        Some(Port { number, name: port.name.clone(), declared: Some(i) })
    })
    .collect()
}

fn shown(ports: &[Port]) -> String {
    if ports.is_empty() {
        return "none are declared".to_owned();
    }
    let one = |port: &Port| match &port.name {
        Some(name) => format!("{} ({name})", port.number),
        None => port.number.to_string(),
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A port of the node leads to the number in the pod, past the name; nothing moves it unseen.
fn on_the_node(container: &Container, port: &Port, path: &str) -> Result<(), Refusal> {
    let entry = port.declared.and_then(|i| Some((i, container.ports.as_ref()?.get(i)?)));
    let on_node = |port: &ContainerPort| port.host_port.filter(|number| *number != 0);
    match entry.and_then(|(i, port)| Some((i, on_node(port)?))) {
        Some((i, number)) => {
            let message = format!(
                "{number} is not allowed on the port that the sidecar takes over; leave it out and use a Service"
            );
            Err(Refusal::new(Reason::Port, format!("{path}.ports[{i}].hostPort"), message))
        }
        None => Ok(()),
    }
}
