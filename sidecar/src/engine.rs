//! How each kind of engine is asked whether it is up, warmed up, and what its counters say.

use outrigger_decide::health::Answer;
use outrigger_decide::progress;
use outrigger_wire::EngineKind;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

mod asking;
mod custom;
mod mlserver;
mod vllm;

pub(crate) use asking::Asking;
use asking::Reply;

/// How long an engine may take to say whether it is up, or to show its counters.
const QUESTION: Duration = Duration::from_secs(5);
/// The most bytes of metrics that are read: a vLLM with many adapters shows under 1 MiB.
const MAX_METRICS: usize = 8 << 20;

/// The engine as its sidecar asks it.
#[derive(Debug)]
pub(crate) struct Engine {
    kind: EngineKind,
    asking: Asking,
    model: RefCell<String>,
    /// What the last warm-up was, in words, for `/status`.
    warmed_by: RefCell<&'static str>,
    /// How the last inference failed, in words.
    failed: RefCell<String>,
}

impl Engine {
    /// The engine at `address`; `model` is the name that it answers to, empty where that is not known.
    pub(crate) fn new(kind: EngineKind, address: &str, model: &str) -> Rc<Self> {
        Rc::new(Self {
            kind,
            asking: Asking::new(address),
            model: RefCell::new(model.to_owned()),
            warmed_by: RefCell::new("not yet"),
            failed: RefCell::default(),
        })
    }

    /// The name that the engine answers to is now this.
    pub(crate) fn set_model(&self, model: &str) {
        if *self.model.borrow() != model {
            model.clone_into(&mut self.model.borrow_mut());
        }
    }

    /// What the last warm-up was, in words.
    pub(crate) fn warmed_by(&self) -> &'static str {
        *self.warmed_by.borrow()
    }

    /// How the last inference failed, in words.
    pub(crate) fn failed(&self) -> String {
        self.failed.borrow().clone()
    }

    /// Whether it is up: its own readiness path.
    pub(crate) async fn ready(&self) -> Answer {
        let model = self.model.borrow().clone();
        match self.kind {
            EngineKind::VLlm => vllm::ready(&self.asking).await,
            EngineKind::MLServer => mlserver::ready(&self.asking, &model).await,
            EngineKind::Custom => custom::ready(&self.asking).await,
        }
    }

    /// A real inference, the smallest that its kind knows; see each kind's file for what is done where there is
    /// none.
    pub(crate) async fn infer(&self, within: Duration) -> Answer {
        let model = self.model.borrow().clone();
        let (answer, how) = match self.kind {
            EngineKind::VLlm => vllm::infer(&self.asking, &model, within).await,
            EngineKind::MLServer => mlserver::infer(&self.asking, &model, within).await,
            EngineKind::Custom => custom::infer(&self.asking, &model, within).await,
        };
        if answer == Answer::Good {
            *self.warmed_by.borrow_mut() = how;
        } else {
            // Nothing else was asked since: whoever waited for this answer goes on with it at once.
            *self.failed.borrow_mut() = self.asking.last();
        }
        answer
    }

    /// The sum of everything that counts progress; `None` where it can't be read.
    pub(crate) async fn counters(&self) -> Option<f64> {
        let names: Vec<&str> = match self.kind {
            EngineKind::VLlm => progress::VLLM.to_vec(),
            EngineKind::MLServer => progress::MLSERVER.to_vec(),
            EngineKind::Custom => progress::VLLM.iter().chain(&progress::MLSERVER).copied().collect(),
        };
        let reply = self.asking.get("/metrics", QUESTION, MAX_METRICS).await?;
        let text = std::str::from_utf8(&reply.body).ok()?;
        if reply.status.is_success() { progress::sum(text, &names) } else { None }
    }
}

/// What a reply to a readiness question means.
fn is_up(reply: Option<&Reply>) -> Answer {
    match reply {
        Some(reply) if reply.status.is_success() => Answer::Good,
        Some(_) => Answer::Bad,
        None => Answer::Nothing,
    }
}

/// What a reply to an inference means.
fn of(reply: Option<&Reply>) -> Answer {
    match reply {
        Some(reply) if reply.is_busy() => Answer::Busy,
        reply => is_up(reply),
    }
}
