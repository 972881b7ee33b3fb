//! What users are told: conditions, the message, what is waited for.

use crate::plan::{Event, Outcome, Waiting};
use crate::rollout::{ACKNOWLEDGE, Blocked, Rollout, after, counted};
use crate::world::Phase;
use jiff::Timestamp;
use outrigger_crds::{Condition, ModelDeploymentStatus, Time};
use outrigger_wire::RevisionId;
use std::borrow::Cow;

/// A condition as it is now.
struct Finding {
    kind: &'static str,
    holds: bool,
    reason: Cow<'static, str>,
    message: String,
}

/// Fills in everything of the status that explains rather than decides.
pub(crate) fn report(rollout: &mut Rollout<'_>) {
    lack(rollout);
    unreached(rollout);
    let findings = [
        available(rollout),
        progressing(rollout),
        degraded(rollout),
        blocked(rollout),
        undecided(rollout),
        mismatch(rollout),
    ];
    for finding in findings {
        announce(rollout, &finding);
        set(&mut rollout.status, rollout.now, finding);
    }
    let (name, alive) =
        (rollout.world.spec.key.as_str(), |r: &&crate::Replica| r.phase != Phase::Terminating);
    let name = name.split_once('/').map_or(name, |(_, name)| name);
    rollout.status.selector = Some(format!("outrigger.dev/deployment={name}"));
    rollout.status.replicas = rollout.world.replicas.iter().filter(alive).count() as i32;
    let leaving = rollout.world.replicas.len() as u32 - rollout.status.replicas as u32;
    if leaving > 0 {
        let why = format!("{} to finish what is in flight", counted(leaving, "replica"));
        rollout.waiting.push(Waiting { what: "drain".into(), why, until: None });
    }
    if rollout.has_failed() {
        let why =
            "the revision that the spec asks for has failed: a change of the spec is waited for".to_owned();
        rollout.waiting.push(Waiting { what: "spec".into(), why, until: None });
    }
    rollout.status.message = message(rollout);
}

/// Where the deployment stands.
pub(crate) fn outcome(rollout: &Rollout<'_>) -> Outcome {
    if rollout.is_blocked() {
        Outcome::Blocked
    } else if rollout.status.canary.is_some() {
        Outcome::RollingOut
    } else if rollout.status.stable.is_none() {
        Outcome::Starting
    } else if rollout.has_failed() {
        Outcome::RolledBack
    } else if rollout.status.stable.as_ref() == Some(&rollout.declared) {
        let all = rollout.world.spec.spec.scale.replicas;
        let ready = all == 0 || rollout.ready(&rollout.declared) > 0;
        if ready && rollout.reached() { Outcome::Serving } else { Outcome::Starting }
    } else {
        Outcome::RollingOut
    }
}

/// Replicas of the serving or starting revision that can't be had. A canary's are its own analysis' matter.
fn lack(rollout: &mut Rollout<'_>) {
    let limit = rollout.world.spec.spec.rollout.progress_deadline;
    let starting = rollout.status.starting.clone();
    let Some(id) = rollout.status.stable.clone().or_else(|| starting.as_ref().map(|s| s.revision.clone()))
    else {
        return;
    };
    let (ready, all) = (rollout.ready(&id), rollout.world.spec.spec.scale.replicas);
    if ready >= all {
        return;
    }
    // A first revision's deadline counts from its start; a serving one's, from its oldest lacking replica's.
    let lacking = rollout.replicas(&id).filter(|r| r.phase != Phase::Ready).map(|r| r.created).min();
    let since = starting.map(|starting| starting.since).or(lacking).or(rollout.status.changed);
    let deadline = since.map(|since| after(since, limit));
    let over = deadline.is_some_and(|deadline| rollout.now >= deadline);
    let blocker = rollout.blocker(&id);
    let told = |trouble: crate::Trouble| (trouble.reason, trouble.message);
    let lost = match &blocker {
        _ if !over => None,
        Some(blocker) => Some(told(blocker.clone())),
        None => never_started(rollout, &id).map(|why| ("NeverReady".to_owned(), why)),
    };
    if let Some((reason, message)) = lost {
        rollout.blocked = Some(Blocked { reason, message, over: true });
        return;
    }
    // A canary's obstacle stands: stable serves, and this one lacks no more than some.
    rollout.blocked = rollout.blocked.take().or_else(|| rollout.obstacle(&id));
    if !over {
        rollout.edges.extend(deadline);
    }
    let (what, why) = match blocker {
        Some(blocker) => ("capacity", blocker.message),
        None => {
            let trouble = suffix(rollout.trouble(&id));
            let count = counted(all, "replica");
            ("replicas", format!("{ready} of {count} of revision {id} are ready{trouble}"))
        }
    };
    rollout.waiting.push(Waiting { what: what.into(), why, until: deadline.filter(|_| !over) });
}

/// Why nothing serves, where no replica of this revision has been ready yet: it is tried further, and nobody need
/// wait for it. A canary is judged instead, and what was ready once is known to start. Whoever begins anew with
/// new replicas gives them the whole deadline.
fn never_started(rollout: &mut Rollout<'_>, id: &RevisionId) -> Option<String> {
    let fresh = |r: &crate::Replica| matches!(r.phase, Phase::Pending | Phase::Starting);
    let was_ready = rollout.status.starting.is_none() && !rollout.replicas(id).all(fresh);
    if was_ready || rollout.ready(id) > 0 || rollout.status.canary.is_some() {
        return None;
    }
    let limit = rollout.world.spec.spec.rollout.progress_deadline;
    let end = after(rollout.replicas(id).map(|r| r.created).min()?, limit);
    if rollout.now < end {
        rollout.edges.push(end);
        return None;
    }
    let trouble = suffix(rollout.trouble(id));
    Some(format!("no replica of revision {id} became ready within {limit}{trouble}"))
}

/// `: what is wrong`, where that is known.
fn suffix(trouble: Option<String>) -> String {
    trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default()
}

/// Ready replicas that no gateway sends requests to. Nobody need wait for that after the progress deadline, which
/// counts from the last change or, where gateways were lost later, from then.
fn unreached(rollout: &mut Rollout<'_>) {
    let settled =
        rollout.status.stable.as_ref() == Some(&rollout.declared) && rollout.status.canary.is_none();
    if !settled || rollout.is_blocked() || rollout.reached() {
        return;
    }
    let ready = rollout.ready(&rollout.declared);
    if ready == 0 && rollout.world.spec.spec.scale.replicas > 0 {
        return;
    }
    let limit = rollout.world.spec.spec.rollout.progress_deadline;
    let kept = available(rollout).holds;
    let before = condition(&rollout.world.status, "Available");
    // What becomes so now is so from now on.
    let lost = match before {
        Some(before) if before.status == "False" && !kept => Some(before.last_transition_time.0),
        _ if !kept => Some(rollout.now),
        _ => None,
    };
    let deadline = lost.max(rollout.status.changed).map(|since| after(since, limit));
    let live = rollout.world.gateways.iter().filter(|gateway| gateway.live).count() as u32;
    let trouble = rollout.world.capacity.gateway.as_ref().map(|trouble| trouble.message.clone());
    let connected = counted(live, "gateway");
    let why = format!("no gateway has the present routes ({connected} connected){}", suffix(trouble));
    if deadline.is_some_and(|deadline| rollout.now >= deadline) {
        rollout.blocked = Some(Blocked { reason: "NoGateway".into(), message: why, over: true });
        return;
    }
    rollout.edges.extend(deadline);
    // They hear within milliseconds: what comes to nothing is not told.
    let patience = lost.max(rollout.status.changed).map(|since| after(since, ACKNOWLEDGE));
    match patience.filter(|end| rollout.now < *end) {
        Some(end) => rollout.edges.push(end),
        None => rollout.waiting.push(Waiting { what: "gateways".into(), why, until: deadline }),
    }
}

fn condition<'a>(status: &'a ModelDeploymentStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn available(rollout: &Rollout<'_>) -> Finding {
    let of = |holds, reason: &'static str, message: &str| Finding {
        kind: "Available",
        holds,
        reason: reason.into(),
        message: message.to_owned(),
    };
    // A gateway that is connected goes on with the routes that it has until it has newer ones; one that comes anew
    // has none before it says so.
    let held = condition(&rollout.world.status, "Available").is_none_or(|before| before.status == "True");
    let reached =
        rollout.reached() || (held && rollout.world.gateways.iter().any(|g| g.live && g.serial > 0));
    match &rollout.status.stable {
        None => of(false, "Starting", "no replica has been ready yet"),
        Some(stable) if rollout.ready(stable) > 0 && !reached => {
            of(false, "NoGateway", "no gateway sends requests to the ready replicas")
        }
        Some(stable) if rollout.ready(stable) > 0 => of(true, "Serving", "requests are served"),
        Some(_) if rollout.world.spec.spec.scale.replicas == 0 => {
            of(false, "ScaledToZero", "there are to be no replicas")
        }
        Some(_) => of(false, "NoReadyReplica", "no replica of the serving revision is ready"),
    }
}

fn progressing(rollout: &Rollout<'_>) -> Finding {
    let of = |holds, reason: &'static str, message: String| Finding {
        kind: "Progressing",
        holds,
        reason: reason.into(),
        message,
    };
    let status = &rollout.status;
    if let Some(blocked) = rollout.blocked.as_ref().filter(|blocked| blocked.over) {
        return of(false, "Blocked", blocked.message.clone());
    }
    if let Some(starting) = &status.starting {
        return of(true, "Starting", format!("revision {} is starting", starting.revision));
    }
    if let Some(canary) = &status.canary {
        if canary.paused.is_some() {
            return of(true, "Paused", format!("revision {} is tried, and paused by hand", canary.revision));
        }
        return of(true, "Canary", format!("revision {} is tried", canary.revision));
    }
    let failed = status.failed.iter().find(|failed| failed.revision == rollout.declared && !failed.withdrawn);
    match failed {
        Some(failed) => of(
            false,
            "RolledBack",
            format!("revision {} was rolled back: {}", failed.revision, failed.reason),
        ),
        None => of(false, "Settled", "the revision that the spec asks for serves".to_owned()),
    }
}

/// What the spec asks for and can't be made, whether or not a replica lacks for it.
fn refused<'a>(rollout: &Rollout<'a>) -> Option<&'a crate::Trouble> {
    let refusals = ["Refused", "InvalidSpec"];
    rollout.world.capacity.missing.iter().find(|trouble| refusals.contains(&trouble.reason.as_str()))
}

fn degraded(rollout: &Rollout<'_>) -> Finding {
    let of = |holds, reason: &'static str, message: String| Finding {
        kind: "Degraded",
        holds,
        reason: reason.into(),
        message,
    };
    let all = rollout.world.spec.spec.scale.replicas;
    if let Some(refused) = refused(rollout) {
        return of(true, "Refused", refused.message.clone());
    }
    let Some(stable) = &rollout.status.stable else { return of(false, "Starting", String::new()) };
    let ready = rollout.ready(stable);
    if ready >= all {
        return of(false, "AllReady", String::new());
    }
    of(true, "ReplicasNotReady", format!("{ready} of {} are ready", counted(all, "replica")))
}

fn blocked(rollout: &Rollout<'_>) -> Finding {
    match &rollout.blocked {
        Some(blocked) => {
            let (reason, message) = (word(&blocked.reason), blocked.message.clone());
            Finding { kind: "Blocked", holds: true, reason, message }
        }
        None => {
            Finding { kind: "Blocked", holds: false, reason: "NotBlocked".into(), message: String::new() }
        }
    }
}

fn undecided(rollout: &Rollout<'_>) -> Finding {
    match &rollout.undecided {
        Some(why) => Finding {
            kind: "Undecided",
            holds: true,
            reason: why.reason.into(),
            message: why.message.clone(),
        },
        None => {
            Finding { kind: "Undecided", holds: false, reason: "NotWaiting".into(), message: String::new() }
        }
    }
}

fn mismatch(rollout: &Rollout<'_>) -> Finding {
    match rollout.mismatch() {
        Some(message) => {
            Finding { kind: "WeightMismatch", holds: true, reason: "ShareDiffers".into(), message }
        }
        None => {
            Finding { kind: "WeightMismatch", holds: false, reason: "AsTold".into(), message: String::new() }
        }
    }
}

/// A reason as conditions may have it: letters, digits and `_`, beginning with a letter.
fn word(reason: &str) -> Cow<'static, str> {
    let kept: String = reason.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    match kept.starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => kept.into(),
        false => "CannotStart".into(),
    }
}

/// Tells of a condition that is bad news when it begins, and of the end of being blocked.
fn announce(rollout: &mut Rollout<'_>, finding: &Finding) {
    let before = condition(&rollout.world.status, finding.kind).filter(|c| c.status == "True");
    let held = before.is_some();
    let refused = finding.kind == "Degraded" && finding.reason == "Refused";
    let bad = refused || matches!(finding.kind, "Blocked" | "Undecided" | "WeightMismatch");
    // What is lacking now may be another thing than what was lacking when it began.
    let can_change = refused || finding.kind == "Blocked";
    let other = can_change && before.is_some_and(|before| before.message != finding.message);
    if bad && finding.holds && (!held || other) {
        let reason = if refused { "Refused" } else { finding.kind };
        rollout.events.push(Event::warning(reason, finding.message.clone()));
    } else if finding.kind == "Blocked" && held && !finding.holds {
        rollout.events.push(Event::normal("Unblocked", "replicas can be had again".to_owned()));
    }
}

/// Sets a condition; when it changes from true to false or back is kept while it doesn't.
fn set(status: &mut ModelDeploymentStatus, now: Timestamp, finding: Finding) {
    let text = if finding.holds { "True" } else { "False" };
    let before = status.conditions.iter().position(|c| c.type_ == finding.kind);
    let since = before.and_then(|i| status.conditions.get(i)).filter(|c| c.status == text);
    // Whole seconds, as the API stores them: what is written is what is read.
    let whole = || Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let condition = Condition {
        last_transition_time: since.map_or_else(whole, |c| c.last_transition_time.clone()),
        message: finding.message,
        observed_generation: status.observed_generation,
        reason: finding.reason.into_owned(),
        status: text.to_owned(),
        type_: finding.kind.to_owned(),
    };
    match before.and_then(|i| status.conditions.get_mut(i)) {
        Some(place) => *place = condition,
        None => status.conditions.push(condition),
    }
}

/// In words, what is so and what is waited for.
fn message(rollout: &Rollout<'_>) -> String {
    let status = &rollout.status;
    let mut said = Vec::new();
    if let Some(blocked) = &rollout.blocked {
        said.push(format!("Blocked: {}", blocked.message));
    }
    let is =
        is(rollout).map(|text| if said.is_empty() { text } else { text.replacen("Revision", "revision", 1) });
    said.extend(is);
    if let Some(failed) = status.failed.iter().find(|f| f.revision == rollout.declared && !f.withdrawn) {
        said.push(format!("revision {} was rolled back: {}", failed.revision, failed.reason));
    }
    let told =
        |trouble: &&crate::Trouble| rollout.blocked.as_ref().is_none_or(|b| b.message != trouble.message);
    said.extend(refused(rollout).filter(told).map(|trouble| format!("refused: {}", trouble.message)));
    said.extend(rollout.undecided.as_ref().map(|undecided| undecided.message.clone()));
    let told = |waiting: &&Waiting| rollout.blocked.as_ref().is_none_or(|b| b.message != waiting.why);
    for waiting in rollout.waiting.iter().filter(told) {
        let until = waiting.until.map(|until| format!(" (until {})", until.strftime("%H:%M:%S UTC")));
        said.push(format!("waiting: {}{}", waiting.why, until.unwrap_or_default()));
    }
    said.join("; ")
}

/// What serves and what is tried; nothing where the sentence before has said why nothing does.
fn is(rollout: &Rollout<'_>) -> Option<String> {
    let status = &rollout.status;
    let alone = rollout.blocked.is_none();
    match (&status.stable, &status.starting, &status.canary) {
        (None, Some(starting), _) => alone.then(|| format!("Revision {} is starting", starting.revision)),
        (None, None, _) => alone.then(|| "Nothing serves".to_owned()),
        (Some(stable), _, Some(canary)) => {
            let steps = rollout.world.spec.spec.rollout.steps.len();
            let step = match canary.passed {
                Some(_) => "taking over".to_owned(),
                None => format!("step {} of {steps}", canary.step + 1),
            };
            let paused = if canary.paused.is_some() { ", paused" } else { "" };
            let (id, share) = (&canary.revision, status.weights.desired);
            Some(format!("Revision {stable} serves; canary {id} takes {share} of callers ({step}{paused})"))
        }
        (Some(stable), _, None) => Some(format!("Revision {stable} serves")),
    }
}
