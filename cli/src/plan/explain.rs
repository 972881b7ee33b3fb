//! A plan in words.

use jiff::Timestamp;
use outrigger_crds::OnUndecided;
use outrigger_plan::{Phase, Plan, World};
use outrigger_wire::{RevisionId, RevisionRoute};
use std::fmt::Write as _;

/// What would be done in this world, and why.
pub(super) fn explain(world: &World, plan: &Plan, now: Timestamp) -> String {
    let mut text = String::new();
    let head = format!("{}, generation {}, at {}", world.spec.key, world.spec.generation, time(now));
    line(&mut text, &head);
    section(&mut text, "What is", is(world));
    section(&mut text, "What would be done", done(world, plan));
    section(&mut text, "Why", why(plan));
    section(&mut text, "What is waited for", waits(plan));
    let title = match plan.status.canary {
        Some(_) => "How it is tried",
        None => "How a later change would be tried",
    };
    section(&mut text, title, steps(world));
    if let Some(at) = plan.wake_at.filter(|at| *at > now) {
        line(&mut text, &format!("\nIf nothing changes before, the next look is at {}.", time(at)));
    }
    text
}

fn line(text: &mut String, words: &str) {
    // Writing to a String does not fail.
    let _written = writeln!(text, "{words}");
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    line(text, &format!("\n{title}"));
    lines.iter().for_each(|words| line(text, &format!("  {words}")));
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `1 replica`, `2 replicas`.
fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn is(world: &World) -> Vec<String> {
    let mut revisions: Vec<&RevisionId> = world.replicas.iter().map(|replica| &replica.revision).collect();
    revisions.sort();
    revisions.dedup();
    let mut lines: Vec<String> = revisions
        .into_iter()
        .map(|revision| {
            let of = |phase: Phase| {
                world.replicas.iter().filter(|r| r.revision == *revision && r.phase == phase).count()
            };
            let all = world.replicas.iter().filter(|r| r.revision == *revision).count();
            let mut words =
                format!("{} of revision {revision}, {} ready", counted(all, "replica"), of(Phase::Ready));
            match of(Phase::Terminating) {
                0 => {}
                leaving => words.push_str(&format!(", {leaving} leaving")),
            }
            words
        })
        .collect();
    if lines.is_empty() {
        lines.push("nothing runs".to_owned());
    }
    if !world.status.message.is_empty() {
        lines.push(world.status.message.clone());
    }
    lines
}

fn done(world: &World, plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.status != world.status {
        let (before, after) = (world.status.serial, plan.status.serial);
        lines.push(match before == after {
            true => format!("write the status (serial {after})"),
            false => format!("write the status (serial {before} → {after})"),
        });
    }
    lines.extend(routed(world, plan));
    for workload in &plan.workloads {
        let alive =
            |r: &&outrigger_plan::Replica| r.revision == workload.revision && r.phase != Phase::Terminating;
        let running = world.replicas.iter().filter(alive).count();
        let wanted = workload.replicas as usize;
        let of = format!("of revision {} ({})", workload.revision, program(workload));
        lines.push(match running.cmp(&wanted) {
            std::cmp::Ordering::Equal => format!("leave {} {of} running", counted(wanted, "replica")),
            std::cmp::Ordering::Less => {
                format!("start {} {of}, for {wanted} in all", counted(wanted - running, "replica"))
            }
            std::cmp::Ordering::Greater => {
                format!("stop {} {of}, for {wanted} in all", counted(running - wanted, "replica"))
            }
        });
    }
    let mut gone: Vec<&RevisionId> = world
        .replicas
        .iter()
        .filter(|r| r.phase != Phase::Terminating && plan.workloads.iter().all(|w| w.revision != r.revision))
        .map(|replica| &replica.revision)
        .collect();
    gone.sort();
    gone.dedup();
    lines.extend(gone.into_iter().map(|revision| format!("stop all replicas of revision {revision}")));
    lines
}

fn program(workload: &outrigger_plan::Workload) -> String {
    let engine = &workload.engine;
    let kind = engine.kind.unwrap_or_default().as_str();
    match (&engine.process, &engine.image) {
        (Some(process), _) => {
            format!("{kind}: {}", command(&process.command, process.args.iter().chain(&engine.args)))
        }
        (None, Some(image)) => format!("{kind}: {}", command(image, engine.args.iter())),
        (None, None) => kind.to_owned(),
    }
}

/// A command line as it would be typed: what a shell would take apart stands in quotes.
fn command<'a>(program: &str, args: impl Iterator<Item = &'a String>) -> String {
    let plain = |arg: &str| {
        !arg.is_empty() && arg.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:@%+,{}".contains(c))
    };
    let quoted = |arg: &str| match plain(arg) {
        true => arg.to_owned(),
        false => format!("'{}'", arg.replace('\'', r"'\''")),
    };
    args.fold(quoted(program), |line, arg| format!("{line} {}", quoted(arg)))
}

fn routed(world: &World, plan: &Plan) -> Vec<String> {
    let names = std::iter::once(&plan.routes.model).chain(&plan.routes.aliases);
    let names: Vec<&str> = names.map(String::as_str).collect();
    let at = |route: &RevisionRoute| {
        format!("{} ({})", route.revision, counted(route.endpoints.len(), "endpoint"))
    };
    let (stable, canary) = (plan.routes.stable.as_ref().map(at), plan.routes.canary.as_ref().map(at));
    let target = match (stable, canary) {
        (None, _) => "nowhere yet: nothing is ready".to_owned(),
        (Some(stable), None) => format!("to {stable}"),
        (Some(stable), Some(canary)) => format!("to {stable}, {} of callers to {canary}", plan.routes.weight),
    };
    let told = if plan.status.serial == world.status.serial { "keep sending" } else { "send" };
    vec![format!("{told} requests for {} {target}", names.join(", "))]
}

fn why(plan: &Plan) -> Vec<String> {
    let events = plan.events.iter().map(|event| format!("{}: {}", event.reason, event.message));
    let verdicts =
        plan.verdicts.iter().map(|verdict| format!("{}: {}", verdict.verdict.as_str(), verdict.reason));
    events.chain(verdicts).collect()
}

fn waits(plan: &Plan) -> Vec<String> {
    let until = |at: Option<Timestamp>| at.map(|at| format!(" (until {})", time(at))).unwrap_or_default();
    plan.waiting_for
        .iter()
        .map(|waiting| format!("{}: {}{}", waiting.what, waiting.why, until(waiting.until)))
        .collect()
}

/// The rollout's steps.
fn steps(world: &World) -> Vec<String> {
    let spec = &world.spec.spec;
    let replicas = u64::from(spec.scale.replicas);
    let step = |(i, step): (usize, &outrigger_crds::Step)| {
        let needed = (replicas * u64::from(step.weight)).div_ceil(100) as usize;
        let then = match step.on_undecided {
            OnUndecided::Hold => "stay",
            OnUndecided::Promote => "go on",
            OnUndecided::Abort => "roll back",
        };
        let undecided =
            step.max_hold.map(|most| format!("; undecided after {most}: {then}")).unwrap_or_default();
        format!(
            "{}. {}% of callers for at least {}, on {}{undecided}",
            i + 1,
            step.weight,
            step.hold,
            counted(needed, "replica")
        )
    };
    let mut lines: Vec<String> = spec.rollout.steps.iter().enumerate().map(step).collect();
    lines.push(format!(
        "then all of them on {}, when no metric is worse",
        counted(replicas as usize, "replica")
    ));
    lines
}
