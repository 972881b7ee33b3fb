//! The decision: which pod is swapped next, and when to stop. Pure.

use super::{
    AT_ONCE, Action, BACK_WITHIN, Halted, Memory, PULL_WITHIN, PodImage, PodRef, Pull, Pulled, SETTLES, Step,
    Swapped, WATCHED, mark,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Between two looks where nothing is known to happen at a certain time.
const LOOK: SignedDuration = SignedDuration::from_secs(2);
/// How long a node may take to begin with a pod; then others are tried before.
const STUCK: SignedDuration = SignedDuration::from_secs(60);
/// How long an old sidecar may finish what is in flight: the most that `maxDrain` allows.
const DRAINS_WITHIN: SignedDuration = SignedDuration::from_secs(3600);
/// A kubelet's words for a container that will not run by waiting.
const HOPELESS: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerError",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
];

/// What to do next in order to have `wanted` in all of these pods. `pulls` are the nodes to which an image is being
/// brought. Asked again after every change, and at the latest when it says.
pub fn next(
    pods: &[PodImage],
    pulls: &BTreeMap<String, Pull>,
    wanted: &str,
    now: Timestamp,
    memory: &Memory,
) -> Step {
    let mut memory = memory.clone();
    if memory.wanted != wanted {
        // Those that are under way are still counted, until they are back.
        memory = Memory { wanted: wanted.to_owned(), proven: false, halted: None, ..memory };
    }
    let mark = mark(wanted);
    let mut upgrade = Upgrade { pods, pulls, wanted, mark, now, memory, actions: Vec::new() };
    upgrade.decide();
    Step { actions: upgrade.actions, memory: upgrade.memory }
}

struct Upgrade<'a> {
    pods: &'a [PodImage],
    pulls: &'a BTreeMap<String, Pull>,
    wanted: &'a str,
    /// Of the wanted image.
    mark: String,
    now: Timestamp,
    memory: Memory,
    actions: Vec<Action>,
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

impl<'a> Upgrade<'a> {
    fn decide(&mut self) {
        self.watch();
        self.end_pulls();
        if let Some(halted) = self.memory.halted.clone() {
            self.actions.push(Action::Halt(halted));
            return;
        }
        let candidates = self.candidates();
        if candidates.is_empty() {
            return;
        }
        let settled = later(self.memory.since, SETTLES);
        if self.now < settled {
            return self.wait(settled, "what was changed last may not show yet");
        }
        self.memory.proven |= self.is_proven();
        if !self.memory.proven {
            return self.first(&candidates);
        }
        self.others(&candidates);
    }

    /// Follows the pods that were swapped.
    fn watch(&mut self) {
        self.memory.done.retain(|uid| self.pods.iter().any(|pod| pod.uid == *uid));
        for (uid, mut swapped) in std::mem::take(&mut self.memory.swapped) {
            let Some(pod) = self.pods.iter().find(|pod| pod.uid == uid && !pod.terminating) else { continue };
            let shows = later(swapped.at, SETTLES);
            let is_given = pod.image == swapped.to || pod.given.as_ref() == Some(&mark(&swapped.to));
            if !is_given && self.now >= shows {
                // It was not to be, or somebody else has changed it.
                continue;
            }
            if is_given && pod.image == swapped.shown {
                // Whoever admits pods makes of it what was there already: nothing was restarted.
                self.memory.proven |= swapped.was_ready && self.is_back(pod) && self.has(pod);
                self.memory.done.insert(uid);
                continue;
            }
            if swapped.seen.is_none() && pod.restarts > swapped.restarts {
                swapped.seen = Some(self.now);
            }
            if self.has_returned(pod, &swapped) {
                self.memory.proven |= swapped.was_ready && self.has(pod);
                self.memory.done.insert(uid);
                continue;
            }
            if swapped.to == self.wanted && self.now >= shows && self.memory.halted.is_none() {
                swapped = self.judge(pod, swapped);
            }
            self.memory.swapped.insert(uid, swapped);
        }
    }

    /// Ends everything when a swapped pod is lost, and gives that one what it had.
    fn judge(&mut self, pod: &PodImage, swapped: Swapped) -> Swapped {
        let Some(why) = self.lost(pod, &swapped) else { return swapped };
        let reason = format!(
            "{}/{} did not come back with {}: {why}; it is given {} again",
            pod.namespace, pod.name, self.wanted, swapped.from
        );
        self.memory.halted = Some(Halted { reason, pod: named(pod) });
        self.actions.push(swap(pod, &swapped.from));
        let (to, shown) = (swapped.from.clone(), pod.image.clone());
        Swapped { at: self.now, restarts: pod.restarts, seen: None, to, shown, ..swapped }
    }

    /// Whether a pod has the wanted image, or was given it and shows what somebody has made of that.
    fn has(&self, pod: &PodImage) -> bool {
        pod.image == self.wanted || pod.given.as_ref() == Some(&self.mark)
    }

    /// Ready, and for long enough.
    fn is_back(&self, pod: &PodImage) -> bool {
        pod.ready_since.is_some_and(|since| later(since, WATCHED) <= self.now)
    }

    /// Whether a swapped pod is as it was.
    fn has_returned(&self, pod: &PodImage, swapped: &Swapped) -> bool {
        let Some(seen) = swapped.seen else { return false };
        let well = pod.waiting.is_none() && self.now >= later(seen, WATCHED);
        self.is_back(pod) || (!swapped.was_ready && well)
    }

    /// Why a swapped pod is given up.
    fn lost(&self, pod: &PodImage, swapped: &Swapped) -> Option<String> {
        if pod.ready_since.is_some() {
            return None;
        }
        if let Some((reason, message)) = &pod.waiting
            && HOPELESS.contains(&reason.as_str())
        {
            let colon = if message.is_empty() { "" } else { ": " };
            return Some(format!("{reason}{colon}{message}"));
        }
        // The kubelet ends the old one before it asks for the new one's image, and of that its status says nothing.
        if pod.ended.is_some_and(|ended| self.now >= later(ended.max(swapped.at), BACK_WITHIN)) {
            let seconds = BACK_WITHIN.as_secs();
            return Some(format!("the old sidecar has ended and the new one has not started in {seconds} s"));
        }
        let late = swapped.was_ready && self.now >= later(swapped.seen?, BACK_WITHIN);
        late.then(|| format!("it is not ready after {} s", BACK_WITHIN.as_secs()))
    }

    /// Pods whose sidecar has another image; those first that are away because of an image that was wanted before.
    fn candidates(&self) -> Vec<&'a PodImage> {
        let open = |pod: &&PodImage| {
            let under_way = self.memory.swapped.get(&pod.uid).is_some_and(|s| s.to == self.wanted);
            !self.has(pod) && pod.node.is_some() && !pod.terminating && !under_way
        };
        let mut candidates: Vec<&PodImage> = self.pods.iter().filter(open).collect();
        candidates.sort_by_key(|pod| (!self.is_away(pod), &pod.deployment, &pod.name, &pod.uid));
        candidates
    }

    /// Whether it is away because of an earlier swap.
    fn is_away(&self, pod: &PodImage) -> bool {
        self.memory.swapped.contains_key(&pod.uid)
    }

    /// Whether some pod runs well with this image, made with it or swapped by a predecessor.
    fn is_proven(&self) -> bool {
        let well = |pod: &&PodImage| {
            let ours = self.memory.swapped.contains_key(&pod.uid);
            self.has(pod) && !pod.terminating && !ours && self.is_back(pod)
        };
        self.pods.iter().any(|pod| well(&pod))
    }

    /// Deployments of which a pod is away because of its swap.
    fn busy(&self) -> BTreeSet<&str> {
        let swapped = self.memory.swapped.values().map(|swapped| swapped.deployment.as_str());
        let inherited = self.pods.iter().filter(|pod| self.is_inherited(pod));
        swapped.chain(inherited.map(|pod| pod.deployment.as_str())).collect()
    }

    /// Whether a pod may be away because a predecessor swapped it: for as long as that could take, a pod with the
    /// wanted image that is not ready is taken for one.
    fn is_inherited(&self, pod: &PodImage) -> bool {
        // Before its sidecar was restarted, the old one finishes what is in flight.
        let longest = if pod.restarts > 0 { BACK_WITHIN } else { DRAINS_WITHIN };
        let until = later(later(self.memory.since, longest), SETTLES);
        let ours = self.has(pod) && !pod.terminating && !self.memory.done.contains(&pod.uid);
        ours && !self.is_back(pod) && self.now < until
    }

    /// No pod has run with this image yet: one is tried, best where another serves meanwhile.
    fn first(&mut self, candidates: &[&'a PodImage]) {
        let watched = self.memory.swapped.values().any(|swapped| swapped.to == self.wanted);
        let away = candidates.iter().find(|pod| self.is_away(pod));
        if watched || (away.is_none() && !self.busy().is_empty()) {
            return self.wait(later(self.now, LOOK), "the first pod is watched");
        }
        let ready = |deployment: &str| {
            self.pods.iter().filter(|p| p.deployment == deployment && p.ready_since.is_some()).count()
        };
        // One that isn't ready would show nothing, and a node that takes no pods would be waited for in vain.
        let best = |pod: &&&PodImage| (!self.is_stuck(pod), ready(&pod.deployment).min(2));
        let well = candidates.iter().filter(|pod| pod.ready_since.is_some());
        let Some(first) = away.or_else(|| well.rev().max_by_key(best)) else {
            return self.wait(later(self.now, LOOK), "no pod is ready to be tried first");
        };
        if self.is_here(first) {
            self.swap(first);
        }
    }

    /// Whether a node has not even begun to bring the image for long.
    fn is_stuck(&self, pod: &PodImage) -> bool {
        let pull = pod.node.as_ref().and_then(|node| self.pulls.get(node));
        pull.is_some_and(|p| p.state == Pulled::Waiting && later(p.since, STUCK) <= self.now)
    }

    fn others(&mut self, candidates: &[&'a PodImage]) {
        let mut busy: BTreeSet<String> = self.busy().into_iter().map(str::to_owned).collect();
        let mut room = AT_ONCE.saturating_sub(busy.len());
        for pod in candidates {
            if room == 0 || self.memory.halted.is_some() {
                break;
            }
            let own = self.is_away(pod);
            if !own && (busy.contains(&pod.deployment) || self.another_is_away(pod)) {
                continue;
            }
            busy.insert(pod.deployment.clone());
            room -= 1;
            if self.is_here(pod) {
                self.swap(pod);
            }
        }
        if self.actions.is_empty() {
            self.wait(later(self.now, LOOK), "pods are away; at most one of a deployment at a time");
        }
    }

    /// Whether a ready pod would go while another of its deployment is away for a reason of its own: the one that is
    /// away is swapped first, which costs nothing.
    fn another_is_away(&self, pod: &PodImage) -> bool {
        let away = |other: &&PodImage| {
            other.deployment == pod.deployment
                && other.uid != pod.uid
                && !other.terminating
                && !self.has(other)
                && other.node.is_some()
                && other.ready_since.is_none()
        };
        pod.ready_since.is_some() && self.pods.iter().any(|other| away(&other))
    }

    /// Whether the image is on this pod's node; if not, it is brought there.
    fn is_here(&mut self, pod: &PodImage) -> bool {
        let Some(node) = &pod.node else { return false };
        let Some(pull) = self.pulls.get(node).filter(|pull| pull.brings == self.mark) else {
            let bring = Action::PrePull { node: node.clone() };
            // A pull of another image is taken away first.
            if !self.pulls.contains_key(node) && !self.actions.contains(&bring) {
                self.actions.push(bring);
            }
            return false;
        };
        let until = later(pull.since, PULL_WITHIN);
        match &pull.state {
            Pulled::Here => return true,
            Pulled::Failed(why) => {
                // Nothing was touched, so it may be tried again: a registry comes back.
                let reason = format!("{} can't be had on node {node}: {why}", self.wanted);
                self.actions.push(Action::Halt(Halted { reason, pod: named(pod) }));
                self.wait(until, "the image is asked for again then");
            }
            // The node takes no pod: it is let be.
            Pulled::Waiting => self.wait(until, &format!("the image is brought to node {node}")),
        }
        false
    }

    /// Takes away what brought images to nodes where it is no longer needed, or has to be tried again.
    fn end_pulls(&mut self) {
        for (node, pull) in self.pulls {
            let lacks =
                |pod: &PodImage| pod.node.as_ref() == Some(node) && !self.has(pod) && !pod.terminating;
            let needed =
                pull.brings == self.mark && self.memory.halted.is_none() && self.pods.iter().any(lacks);
            let over = pull.state != Pulled::Here && self.now >= later(pull.since, PULL_WITHIN);
            if !needed || over {
                self.actions.push(Action::EndPrePull { node: node.clone() });
            }
        }
    }

    fn swap(&mut self, pod: &PodImage) {
        // What it had when it was last well, where another image was tried in between.
        let before = self.memory.swapped.remove(&pod.uid);
        let swapped = Swapped {
            deployment: pod.deployment.clone(),
            from: before.as_ref().map_or_else(|| pod.image.clone(), |before| before.from.clone()),
            shown: pod.image.clone(),
            to: self.wanted.to_owned(),
            was_ready: before.map_or(pod.ready_since.is_some(), |before| before.was_ready),
            restarts: pod.restarts,
            at: self.now,
            seen: None,
        };
        self.memory.swapped.insert(pod.uid.clone(), swapped);
        self.actions.push(swap(pod, self.wanted));
    }

    fn wait(&mut self, until: Timestamp, why: &str) {
        self.actions.push(Action::Wait { until, why: why.to_owned() });
    }
}

fn swap(pod: &PodImage, image: &str) -> Action {
    Action::Swap { pod: named(pod), image: image.to_owned() }
}

fn named(pod: &PodImage) -> PodRef {
    PodRef { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}
