//! Histories of authorities over drawn times: replicas that are away, bundles that come late.

use super::*;
use crate::trust::authority::Authorities;
use proptest::prelude::*;
use std::collections::BTreeMap;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn span(made: i64, expires: i64) -> Span {
    Span { made: at(made), expires: at(expires) }
}

/// One authority's life in a year, as decisions.
///
/// proves O.9
#[test]
fn a_year_of_an_authority() {
    let times = Times::default();
    let mut current = Known { current: span(0, 365 * DAY), next: None, old: None };
    let two_thirds = 365 * DAY * 2 / 3;
    assert_eq!(decide(&current, at(0), &times), Step::Stand(at(two_thirds)));
    assert_eq!(decide(&current, at(two_thirds - 1), &times), Step::Stand(at(two_thirds)));
    assert_eq!(decide(&current, at(two_thirds), &times), Step::MakeNext);
    let fresh = span(two_thirds, two_thirds + 365 * DAY);
    current.next = Some((fresh, None));
    // Not told to everybody: it never signs, as long as the current one holds.
    assert_eq!(decide(&current, at(365 * DAY - 1), &times), Step::Stand(at(365 * DAY)));
    let published = two_thirds + HOUR;
    current.next = Some((fresh, Some(at(published))));
    assert_eq!(decide(&current, at(published + DAY - 1), &times), Step::Stand(at(published + DAY)));
    assert_eq!(decide(&current, at(published + DAY), &times), Step::Promote);
    let promoted = published + DAY;
    let mut after = Known { current: fresh, next: None, old: Some(at(promoted)) };
    let kept = i64::try_from(times.kept().as_secs()).unwrap();
    assert!(kept > DAY, "longer than what it signed holds");
    assert_eq!(decide(&after, at(promoted + kept - 1), &times), Step::Stand(at(promoted + kept)));
    assert_eq!(decide(&after, at(promoted + kept), &times), Step::ForgetOld);
    after.old = None;
    assert!(matches!(decide(&after, at(promoted + kept), &times), Step::Stand(_)));
}

#[test]
fn after_a_long_absence_it_begins_anew_or_with_what_clients_may_know() {
    let times = Times::default();
    let over = Known { current: span(0, 10), next: None, old: None };
    assert_eq!(decide(&over, at(10), &times), Step::Begin);
    let next = Known { next: Some((span(5, 500), None)), ..over };
    assert_eq!(decide(&next, at(10), &times), Step::Promote);
    let both_over = Known { next: Some((span(5, 9), Some(at(5)))), ..over };
    assert_eq!(decide(&both_over, at(10), &times), Step::Begin);
    let next_over = Known { current: span(0, 1_000), next: Some((span(5, 9), None)), old: None };
    assert_eq!(decide(&next_over, at(700), &times), Step::MakeNext, "one that has expired is replaced");
}

/// What a client has of the bundle: what was told last.
#[derive(Default)]
struct World {
    /// Authorities by when they were made: since when every client knows them.
    known_to_all: BTreeMap<Timestamp, Timestamp>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Replicas look at drawn times, tell everybody at drawn times and sometimes not for long. As long as an
    /// authority holds, nothing is signed by one that some client can't know, and what was signed lately can be
    /// verified by what is told.
    ///
    /// proves O.9
    #[test]
    fn nothing_is_signed_by_an_authority_that_clients_cant_know(
        life in 30 * DAY..400 * DAY,
        overlap in 60_i64..3 * DAY,
        looks in proptest::collection::vec((60_i64..20 * DAY, any::<bool>()), 1..300),
    ) {
        let times = Times {
            authority: Duration::from_secs(life.unsigned_abs()),
            overlap: Duration::from_secs(overlap.unsigned_abs()),
            ..Times::default()
        };
        let mut now = at(0);
        let mut known = Known { current: span(0, life), next: None, old: None };
        let mut world = World::default();
        world.known_to_all.insert(now, now);
        // Until when what each authority signed holds.
        let mut signed: BTreeMap<Timestamp, Timestamp> = BTreeMap::new();
        // The one before, of which `Known` says only since when it signs no more.
        let mut old_made = None;
        for (later, tells) in looks {
            now += SignedDuration::from_secs(later);
            let mut steps = 0;
            let lapsed = loop {
                steps += 1;
                prop_assert!(steps < 8, "steps come to an end: {known:?}");
                match decide(&known, now, &times) {
                    Step::Stand(until) => {
                        prop_assert!(until > now);
                        break false;
                    }
                    Step::Begin => break true,
                    Step::MakeNext => known.next = Some((Span { made: now, expires: after(now, times.authority) }, None)),
                    Step::ForgetOld => {
                        known.old = None;
                        old_made = None;
                    }
                    Step::Promote => {
                        let (next, published) = known.next.take().unwrap();
                        if known.current.expires > now {
                            let since = world.known_to_all.get(&next.made).copied();
                            prop_assert!(since.is_some_and(|since| after(since, times.overlap) <= now), "{since:?}");
                            prop_assert_eq!(since, published);
                        }
                        old_made = Some(known.current.made);
                        known.old = Some(now);
                        known.current = next;
                    }
                }
            };
            if lapsed {
                return Ok(());
            }
            let holds = after(now, times.serving).min(known.current.expires);
            signed.insert(known.current.made, holds);
            let told = [Some(known.current.made), known.next.map(|(next, _)| next.made), old_made];
            for (made, until) in &signed {
                prop_assert!(*until <= now || told.contains(&Some(*made)), "what it signed holds until {until}");
            }
            if tells && let Some((next, published)) = &mut known.next {
                published.get_or_insert(now);
                world.known_to_all.entry(next.made).or_insert(now);
            }
        }
    }
}

/// The same with real keys: what the Secret holds is read as it was written, at each step.
#[test]
fn authorities_survive_the_secret_at_each_step() {
    let life = Duration::from_secs(1_000);
    let mut authorities = Authorities::begin(at(0), life).unwrap();
    let mut bundles = Vec::new();
    for (step, now) in [
        (Step::Stand(at(0)), at(0)),
        (Step::MakeNext, at(700)),
        (Step::Promote, at(800)),
        (Step::MakeNext, at(1_500)),
        (Step::ForgetOld, at(1_501)),
    ] {
        authorities = authorities.step(step, now, life).unwrap().published(now);
        let (data, annotations) = authorities.write();
        assert_eq!(Authorities::read(&data, &annotations).unwrap(), authorities, "after {step:?}");
        bundles.push(authorities.bundle().matches("BEGIN CERTIFICATE").count());
    }
    assert_eq!(bundles, [1, 2, 2, 3, 2]);
    let known = authorities.known();
    assert_eq!(known.current, Span { made: at(700), expires: at(1_700) });
    assert_eq!(known.next, Some((Span { made: at(1_500), expires: at(2_500) }, Some(at(1_500)))));
}
