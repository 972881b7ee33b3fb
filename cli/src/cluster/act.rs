//! `outrigger promote|pause|resume|abort`: the annotation is written, and the operator's answer told.

use super::connection::Connection;
use super::{Target, print, refusal};
use clap::Args;
use kube::api::{Patch, PatchParams};
use outrigger_crds::status::Action;
use outrigger_crds::{ModelDeployment, ModelDeploymentStatus};
use outrigger_plan::action::{Asked, Verb};
use outrigger_wire::Period;
use serde_json::json;
use std::time::{Duration, Instant};

/// The annotation.
const ACTION: &str = "outrigger.dev/action";
/// Who writes it, among the field managers.
const MANAGER: &str = "outrigger-cli";
/// Characters of a nonce: 60 bits.
const NONCE: usize = 12;
/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// How often a write is tried that others come before.
const TRIES: u32 = 8;

/// Interferes with a canary.
#[derive(Args, Clone, Debug)]
pub struct ActArgs {
    #[command(flatten)]
    target: Target,
    /// How long the operator's answer is waited for.
    #[arg(long, value_name = "PERIOD", default_value = "30s")]
    timeout: Period,
}

pub(super) async fn act(verb: Verb, args: &ActArgs) -> Result<u8, String> {
    let connection = Connection::open(&args.target).await?;
    let end = Instant::now() + args.timeout.get();
    let asked = write(&connection, verb).await?;
    let text = asked.to_string();
    loop {
        let object = connection.get().await?;
        if let Some(action) = answer(&object, &text) {
            print(&format!("{}\n", action.result))?;
            return Ok(u8::from(!action.accepted));
        }
        if annotation(&object) != Some(text.as_str()) {
            return Err("somebody else asked for something in the same moment: it was not done".to_owned());
        }
        if Instant::now() >= end {
            return Err(format!(
                "the operator has not answered within {}: is it running? What was asked stands in the annotation \
                 {ACTION} and is done when it does; remove it to take it back",
                args.timeout
            ));
        }
        // between two looks
        tokio::time::sleep(LOOK + LOOK.mul_f64(fastrand::f64() / 2.0)).await;
    }
}

/// Writes the annotation, for the canary and the step that are seen first.
async fn write(connection: &Connection, verb: Verb) -> Result<Asked, String> {
    let mut object = connection.get().await?;
    let asked = asked(verb, &object, nonce())?;
    for tried in 0..TRIES {
        let patch = Patch::Merge(json!({"metadata": {
            "resourceVersion": object.metadata.resource_version,
            "annotations": {ACTION: asked.to_string()},
        }}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match connection.api.patch(&connection.name, &params, &patch).await {
            Ok(_) => return Ok(asked),
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => return Err(refusal::words(&error, connection)),
        }
        // The operator writes every ten seconds; who comes second looks again.
        let pause = LOOK.mul_f64(fastrand::f64() * f64::from(tried + 1));
        tokio::time::sleep(pause).await; // between two looks
        object = connection.get().await?;
        let now = self::asked(verb, &object, asked.nonce.clone())?;
        if now != asked {
            return Err(format!("the canary has moved on meanwhile, to {}/{}", now.revision, now.step));
        }
    }
    Err(format!("others changed the deployment each of {TRIES} times that this was tried: nothing was asked"))
}

/// What is asked of the canary that this object has.
pub(super) fn asked(verb: Verb, object: &ModelDeployment, nonce: String) -> Result<Asked, String> {
    let none = ModelDeploymentStatus::default();
    let status = object.status.as_ref().unwrap_or(&none);
    match (&status.canary, &status.stable) {
        (Some(canary), _) => Ok(Asked { verb, revision: canary.revision.clone(), step: canary.step, nonce }),
        (None, Some(stable)) => Err(format!("no canary is under way: revision {stable} serves")),
        (None, None) => Err("no canary is under way, and nothing serves yet".to_owned()),
    }
}

/// The operator's answer to this text.
pub(super) fn answer<'a>(object: &'a ModelDeployment, text: &str) -> Option<&'a Action> {
    object.status.as_ref()?.action.as_ref().filter(|action| action.text == text)
}

fn annotation(object: &ModelDeployment) -> Option<&str> {
    object.metadata.annotations.as_ref()?.get(ACTION).map(String::as_str)
}

fn nonce() -> String {
    (0..NONCE).map(|_| fastrand::alphanumeric().to_ascii_lowercase()).collect()
}
