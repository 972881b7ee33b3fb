//! What a person asks of a canary. Read once per text; done, or refused in words, with the write that says so.

use super::{Next, Rollout};
use crate::action::{Asked, MAX_TEXT, Verb};
use crate::plan::{Event, Waiting};
use jiff::{SignedDuration, Timestamp};
use outrigger_crds::status::{Action, Canary};

/// Nonces that are remembered. What is older names a step that is long over.
const MAX_USED: usize = 32;

impl Rollout<'_> {
    /// Reads what is asked. What can't be read is refused here; the rest is for [`Rollout::obey`].
    pub(super) fn hear(&mut self) {
        let Some(text) = self.world.action.as_ref().filter(|text| !text.is_empty()) else { return };
        let text: String = text.chars().take(MAX_TEXT).collect();
        let last = self.status.action.as_ref();
        if last.is_some_and(|last| last.text == text) {
            return;
        }
        match text.parse::<Asked>() {
            Err(why) => self.answer(text, None, false, why),
            Ok(asked) if last.is_some_and(|last| last.used.contains(&asked.nonce)) => {
                let why = format!("the nonce {} was used before: every action needs a new one", asked.nonce);
                self.answer(text, Some(asked), false, why);
            }
            Ok(asked) => self.asked = Some(asked),
        }
    }

    /// Does what is asked of this canary, which has not failed.
    pub(super) fn obey(&mut self, canary: &mut Canary) -> Option<Next> {
        let asked = self.asked.take()?;
        if let Some(why) = misaimed(&asked, canary).or_else(|| pointless(asked.verb, canary)) {
            self.refuse(asked, why);
            return None;
        }
        let (id, steps) = (canary.revision.clone(), self.world.spec.spec.rollout.steps.len());
        let (next, event, result) = match asked.verb {
            Verb::Promote if canary.passed.is_some() => {
                canary.paused = None;
                let what = format!("canary {id} goes on: it takes over when all its replicas are ready");
                (Next::Stay, Some("Resumed"), what)
            }
            Verb::Promote => {
                canary.paused = None;
                let what = match self.world.spec.spec.rollout.steps.get(canary.step as usize + 1) {
                    Some(next) => format!("canary {id} goes on to {}%", next.weight),
                    None => format!("canary {id} takes over as soon as all its replicas are ready"),
                };
                (Next::Advance, Some("PromotedByHand"), what)
            }
            Verb::Pause => {
                canary.paused = Some(self.now);
                let what = format!("canary {id} is paused at step {} of {steps}", canary.step + 1);
                let over = format!("canary {id} is paused before it becomes stable");
                // Not on: `next` says why it waits.
                let what = if canary.passed.is_some() { over } else { what };
                (self.next(canary), Some("Paused"), what)
            }
            Verb::Resume => {
                resume(canary, self.now);
                (Next::Stay, Some("Resumed"), format!("canary {id} goes on"))
            }
            Verb::Abort => {
                (Next::Abort("aborted by hand".to_owned()), None, format!("canary {id} is rolled back"))
            }
        };
        if let Some(reason) = event {
            self.events.push(Event::normal(reason, format!("{result}, by hand")));
        }
        self.answer(asked.to_string(), Some(asked), true, result);
        Some(next)
    }

    /// What was asked of a canary that failed by itself in the same moment, and of none at all.
    pub(super) fn leave_unobeyed(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        let tried = self.world.status.canary.as_ref().is_some_and(|canary| canary.revision == asked.revision);
        let failed =
            self.status.failed.iter().find(|f| tried && f.revision == asked.revision && f.at == self.now);
        let wanted = failed.is_some() && asked.verb == Verb::Abort;
        let why = match (failed, &self.status.canary) {
            (Some(failed), _) => format!("canary {} was rolled back: {}", failed.revision, failed.reason),
            (None, Some(canary)) => format!("{} is tried now, not {}", canary.revision, asked.revision),
            (None, None) => format!("no canary is under way, so not {} either", asked.revision),
        };
        self.answer(asked.to_string(), Some(asked), wanted, why);
    }

    /// What a paused canary waits for.
    pub(super) fn waits_for_hands(&mut self, canary: &Canary) -> bool {
        let Some(since) = canary.paused else { return false };
        let since = since.strftime("%H:%M:%S UTC");
        let why = format!("paused by hand since {since}: to be resumed, promoted or aborted");
        self.waiting.push(Waiting { what: "hands".into(), why, until: None });
        true
    }

    fn refuse(&mut self, asked: Asked, why: String) {
        self.answer(asked.to_string(), Some(asked), false, why);
    }

    fn answer(&mut self, text: String, asked: Option<Asked>, accepted: bool, result: String) {
        let mut used = self.status.action.take().map(|last| last.used).unwrap_or_default();
        if let Some(asked) = asked.as_ref().filter(|asked| !used.contains(&asked.nonce)) {
            let excess = (used.len() + 1).saturating_sub(MAX_USED);
            used.drain(..excess);
            used.push(asked.nonce.clone());
        }
        if !accepted {
            let what = asked.as_ref().map_or("the action", |asked| asked.verb.as_str());
            self.events.push(Event::warning("ActionRefused", format!("{what} refused: {result}")));
        }
        self.status.action = Some(Action {
            text,
            verb: asked.as_ref().map(|asked| asked.verb.to_string()).unwrap_or_default(),
            nonce: asked.map(|asked| asked.nonce).unwrap_or_default(),
            at: Some(self.now),
            accepted,
            result,
            used,
        });
    }
}

/// Why what is asked is not about this canary at this step.
fn misaimed(asked: &Asked, canary: &Canary) -> Option<String> {
    if asked.revision != canary.revision {
        return Some(format!("{} is tried now, not {}", canary.revision, asked.revision));
    }
    (asked.step != canary.step)
        .then(|| format!("status.canary.step is {} now, not {}", canary.step, asked.step))
}

/// Why what is asked would change nothing.
fn pointless(verb: Verb, canary: &Canary) -> Option<String> {
    let id = &canary.revision;
    match (verb, canary.paused) {
        (Verb::Pause, Some(_)) => Some(format!("canary {id} is paused already")),
        (Verb::Resume, None) => Some(format!("canary {id} is not paused")),
        (Verb::Promote, None) if canary.passed.is_some() => Some(format!(
            "canary {id} has passed all steps already, and takes over when all its replicas are ready"
        )),
        _ => None,
    }
}

/// The hold goes on from where it was when the pause began.
fn resume(canary: &mut Canary, now: Timestamp) {
    let Some(since) = canary.paused.take() else { return };
    canary.step_reached = canary.step_reached.map(|reached| {
        let held = since.duration_since(reached).max(SignedDuration::ZERO);
        now.checked_sub(held).unwrap_or(now)
    });
}
