//! Verdicts as sentences.

use crate::margin::Share;
use crate::step::Findings;
use crate::{Settings, Verdict};

/// Shares of requests by how slow their first token was.
pub(crate) struct Slow {
    /// The canary's, slower than the reference.
    pub(crate) canary: Share,
    /// Stable's, slower than the reference.
    pub(crate) stable: Share,
    /// The canary's, slower than the reference by more than the margin.
    pub(crate) beyond: Share,
}

/// Why errors are judged so.
pub(crate) fn errors(
    verdict: &Verdict,
    findings: &Findings,
    (canary, stable): (Share, Share),
    backpressure: u64,
    settings: &Settings,
) -> String {
    let refused = match backpressure {
        0 => String::new(),
        n => format!("; {n} more refused because of load"),
    };
    if canary.trials <= 0.0 {
        return nothing(verdict, "no request of the canary has ended yet") + &refused;
    }
    let compared = match stable.value() {
        Some(_) => format!("errors {} against {}", percent(canary), percent(stable)),
        None => format!("errors {}, and stable was not called", percent(canary)),
    };
    let margin = format!("{} percentage points", number(settings.errors_margin.fraction() * 100.0));
    format!("{compared}: {}{refused}", finding(verdict, findings, &margin, settings))
}

/// Why the time to first token is judged so.
pub(crate) fn first_token(
    verdict: &Verdict,
    findings: &Findings,
    (canary, stable): (Option<f64>, Option<f64>),
    slow: &Slow,
    reference: u32,
    settings: &Settings,
) -> String {
    let millis = |value: Option<f64>| value.map_or("none".to_owned(), |ms| format!("{} ms", number(ms)));
    let compared = format!("first token (90th percentile) {} against {}", millis(canary), millis(stable));
    if reference == 0 {
        let why = "no reference yet, as stable has not answered enough requests";
        return if canary.is_some() { format!("{compared}: {why}") } else { nothing(verdict, why) };
    }
    if slow.canary.trials <= 0.0 {
        return nothing(verdict, "no first token of the canary has been compared with the reference yet");
    }
    let shares = format!(
        "above the reference {} against {} of requests, beyond the margin {}",
        percent(slow.canary),
        percent(slow.stable),
        percent(slow.beyond),
    );
    let margin = format!("{} %", number(settings.first_token_margin.fraction() * 100.0));
    format!("{compared}, {shares}: {}", finding(verdict, findings, &margin, settings))
}

fn nothing(verdict: &Verdict, why: &str) -> String {
    match verdict {
        Verdict::ProviderError => "no gateway reports".to_owned(),
        _ => why.to_owned(),
    }
}

fn finding(verdict: &Verdict, findings: &Findings, margin: &str, settings: &Settings) -> String {
    let power = |natural: f64| format!("10^{:.1}", natural / std::f64::consts::LN_10);
    let (bound, pass_bound) = (power(findings.bound), power(findings.pass_bound));
    let after =
        if findings.samples == 1 { "1 request".into() } else { format!("{} requests", findings.samples) };
    match verdict {
        Verdict::Fail => {
            format!("the canary is worse (e-value {}, bound {bound}, {after})", power(findings.worse))
        }
        Verdict::Pass => format!(
            "more than {margin} worse is excluded (e-value {}, bound {pass_bound}, {after})",
            power(findings.within)
        ),
        _ if findings.samples < settings.min_requests => {
            format!("{after} of at least {}", settings.min_requests)
        }
        _ if findings.worse >= findings.bound => {
            format!("worse, though not by more than the {margin} that are tolerated ({after})")
        }
        _ => format!(
            "not known yet (e-values: worse {} of {bound}, within {margin} {} of {pass_bound}; {after})",
            power(findings.worse),
            power(findings.within)
        ),
    }
}

fn percent(share: Share) -> String {
    share.value().map_or("none".to_owned(), |value| format!("{:.1} %", value * 100.0))
}

/// With one decimal below ten, without from there on.
fn number(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
