//! From a routed request to an answer: the side that the hash assigns, a replica there, another one where that is
//! allowed.

use crate::attempt::{Attempt, Counted, miss_of_answer, miss_of_error};
use crate::record::Record;
use crate::snapshot::Pass;
use crate::thread::{Local, LocalSide, Replica, Thread};
use http::Response;
use http::request::Parts;
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::upstream::{Incoming, RequestBody, Timeouts};
use outrigger_decide::balance::pick;
use outrigger_decide::breaker::Signal;
use outrigger_decide::key;
use outrigger_decide::retry::{self, Miss};
use outrigger_wire::{Arm, Outcome, Stratum};
use std::rc::Rc;
use std::time::Instant;

/// A request with a deployment, on its way to a replica.
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    thread: &'a Rc<Thread>,
    local: Rc<Local>,
    head: &'a Parts,
    body: RequestBody,
    stratum: Stratum,
    /// The side that the hash assigned.
    assigned: Arm,
    /// The side on which replicas are looked for; stable once a canary can't take its caller.
    arm: Arm,
    /// What the canary's gate said, until the first attempt has used it.
    pass: Pass,
    /// Where the request was.
    tried: Vec<Rc<Replica>>,
    /// Replicas whose engine may have worked on it.
    engines: u8,
}

/// An answer to pass on, or why there is none.
type Answer = Result<(Response<Incoming>, Attempt), Refusal>;

impl<'a> Errand<'a> {
    /// Assigns the request to a side. `length` is its body's, in bytes.
    pub(crate) fn new(
        thread: &'a Rc<Thread>,
        local: Rc<Local>,
        head: &'a Parts,
        body: RequestBody,
        length: u64,
    ) -> Self {
        let deployment = &local.shared;
        let routes = &deployment.routes;
        let id = head.headers.get(key::REQUEST_ID).map_or(&[][..], |id| id.as_bytes());
        let by = key::cohort(routes.traffic.cohort, &head.headers, id);
        let is_canary = deployment.salt.is_some_and(|salt| salt.is_canary(by, routes.weight));
        let assigned = if is_canary { Arm::Canary } else { Arm::Stable };
        thread.tell(Record::Assigned { deployment: deployment.number, serial: routes.serial, arm: assigned });
        Self {
            thread,
            local,
            head,
            body,
            stratum: Stratum::of(length),
            assigned,
            arm: assigned,
            pass: Pass::Yes,
            tried: Vec::new(),
            engines: 0,
        }
    }

    /// Attempts until there is an answer to pass on or nothing more may be tried.
    pub(crate) async fn run(mut self) -> Answer {
        self.thread.budget.borrow_mut().deposit();
        let began = tokio::time::Instant::now();
        let mut next = self.first_place();
        // What is passed on when no attempt does better.
        let mut last: Option<Answer> = None;
        while let Some((replica, counted)) = next.take() {
            if let Some(Ok((_, mut attempt))) = last.take() {
                attempt.discarded();
            }
            let (answer, miss) = self.attempt(&replica, counted, began).await;
            last = Some(answer);
            let Some(miss) = miss else { break };
            self.tried.push(replica);
            self.engines += u8::from(miss == Miss::Broken);
            next = self.next_place(miss);
            if next.is_some() && !self.may_again(miss) {
                break;
            }
        }
        last.unwrap_or_else(|| Err(self.nothing()))
    }

    async fn attempt(
        &mut self,
        replica: &Rc<Replica>,
        counted: Option<Counted>,
        began: tokio::time::Instant,
    ) -> (Answer, Option<Miss>) {
        let mut attempt = Attempt::begin(self.thread, &self.local, replica, counted, Instant::now());
        let deployment = &self.local.shared;
        let timeouts = Timeouts {
            // An admitted request may wait in the sidecar's queue before the engine sees it.
            first_byte: deployment.first_byte,
            ..Timeouts::from(&deployment.routes.timeouts)
        };
        match replica.upstream.send(self.head, &mut self.body, &timeouts, began).await {
            Ok(response) => {
                attempt.answered(response.status(), response.headers());
                replica.heard(response.headers());
                let miss = miss_of_answer(response.status(), response.headers());
                (Ok((response, attempt)), miss)
            }
            Err(error) => {
                attempt.failed(&error);
                (Err(Refusal::from(&error)), miss_of_error(error.cause()))
            }
        }
    }

    /// Whether another attempt may follow this one; takes from the budget if so.
    fn may_again(&self, miss: Miss) -> bool {
        let request = retry::Request {
            replayable: !self.body.is_taken(),
            idempotent: retry::is_idempotent(&self.head.method, &self.head.headers),
            attempts: u8::try_from(self.tried.len()).unwrap_or(u8::MAX),
            engines: self.engines,
        };
        let allowed = retry::again(miss, request, &mut self.thread.budget.borrow_mut());
        if allowed && let Some(revision) = self.assigned_revision() {
            self.thread.tell(Record::Retried { revision });
        }
        allowed
    }

    /// Where the request goes first.
    fn first_place(&mut self) -> Option<(Rc<Replica>, Option<Counted>)> {
        if self.arm == Arm::Stable {
            return self.place();
        }
        let side = self.local.side(Arm::Canary)?;
        self.pass = side.revision.gate.pass();
        let has_replicas = !side.replicas.is_empty();
        if self.pass != Pass::No
            && let Some(place) = self.place()
        {
            return Some(place);
        }
        // Ejected by the revision's breaker or replica by replica: a failure of the canary, so that ejecting never
        // turns into "no data". A canary without replicas is the planner's to see: that is no fault of its code.
        if has_replicas && let Some(revision) = self.assigned_revision() {
            self.thread.tell(Record::Ended {
                revision,
                stratum: self.stratum,
                outcome: Outcome::Failure,
                // Its own consequence must not feed the breaker.
                signal: Signal::Neutral,
                probe: false,
                micros: 0,
            });
        }
        self.fall_back()
    }

    /// Where it goes after `miss`: on the same side first. What was shed for load is not moved to the other side:
    /// stable's replicas are for stable's callers while the canary lives.
    fn next_place(&mut self, miss: Miss) -> Option<(Rc<Replica>, Option<Counted>)> {
        match self.place() {
            None if self.arm == Arm::Canary && miss != Miss::Shed => self.fall_back(),
            place => place,
        }
    }

    /// The canary can't take its caller: stable does.
    fn fall_back(&mut self) -> Option<(Rc<Replica>, Option<Counted>)> {
        self.arm = Arm::Stable;
        let place = self.place()?;
        if let Some(revision) = self.assigned_revision() {
            self.thread.tell(Record::FellBack { revision });
        }
        Some(place)
    }

    fn place(&mut self) -> Option<(Rc<Replica>, Option<Counted>)> {
        let side = self.local.side(self.arm)?;
        let replica = self.pick(side)?;
        let counted = (self.arm == self.assigned).then(|| Counted {
            revision: side.revision.number,
            stratum: self.stratum,
            generation: self.local.shared.generation,
            probe: std::mem::replace(&mut self.pass, Pass::Yes) == Pass::Probe,
        });
        Some((replica, counted))
    }

    fn pick(&self, side: &LocalSide) -> Option<Rc<Replica>> {
        let now = Instant::now();
        let settings = self.local.settings();
        let index = pick(side.replicas.len(), self.thread.random(), now, |index| {
            side.replicas.get(index).map_or_else(Default::default, |replica| {
                let tried = self.tried.iter().any(|tried| Rc::ptr_eq(tried, replica));
                replica.load(tried, settings, now)
            })
        })?;
        side.replicas.get(index).cloned()
    }

    fn assigned_revision(&self) -> Option<u32> {
        self.local.side(self.assigned).map(|side| side.revision.number)
    }

    /// Why no replica can be sent to.
    fn nothing(&self) -> Refusal {
        let routes = &self.local.shared.routes;
        let name = &routes.model;
        if routes.stable.as_ref().is_none_or(|stable| stable.endpoints.is_empty()) {
            let message = format!("no replica of `{name}` is ready");
            return Refusal::unavailable("no_endpoint", message);
        }
        let message = format!("all replicas of `{name}` fail and are not sent to for a moment");
        Refusal {
            retry_after: Some(routes.traffic.circuit_breaker.open_for.get()),
            ..Refusal::unavailable("ejected", message)
        }
    }
}
