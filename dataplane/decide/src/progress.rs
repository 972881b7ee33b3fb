//! Progress as an engine's own metrics show it.
//!
//! The sum of everything that only grows while an engine works is compared with the sum of a moment ago. Gauges
//! (requests running, cache in use) are no progress: they stand still in a long prefill and move in a crash loop.

/// Counters that grow while vLLM works: tokens in and out, and the iterations of its scheduler (a histogram's
/// count), which advance in the middle of a long prefill too. Not `vllm:request_success_total`: a request that its
/// caller gave up is counted there too, and a stuck engine has many of those.
pub const VLLM: [&str; 5] = [
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:inter_token_latency_seconds_count",
    "vllm:time_to_first_token_seconds_count",
];

/// Counters that grow while MLServer works: answered inferences, by its own and its REST server's counts.
pub const MLSERVER: [&str; 2] = ["model_infer_request_success_total", "model_infer_request_duration_count"];

/// The sum of the named series in a Prometheus text, over all their labels. `None` where none of them is there:
/// that is not zero progress, it is no news.
pub fn sum(text: &str, names: &[&str]) -> Option<f64> {
    text.lines().filter_map(|line| sample(line, names)).reduce(|sum, value| sum + value)
}

fn sample(line: &str, names: &[&str]) -> Option<f64> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at_checked(end)?;
    if !names.contains(&name) {
        return None;
    }
    // Label values may hold anything, a brace too: the last one closes the labels.
    let value = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
    value.split_ascii_whitespace().next()?.parse::<f64>().ok().filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "# HELP vllm:generation_tokens_total Number\n\
        # TYPE vllm:generation_tokens_total counter\n\
        vllm:generation_tokens_total{engine=\"0\",model_name=\"a }b\"} 1.5e3\n\
        vllm:generation_tokens_total{engine=\"1\"} 2 1700000000\n\
        vllm:prompt_tokens_total 4\n\
        vllm:prompt_tokens_total_created{engine=\"0\"} 1.7e9\n\
        vllm:num_requests_running{engine=\"0\"} 8\n";

    #[test]
    fn only_named_counters_are_summed() {
        assert_eq!(sum(TEXT, &VLLM), Some(1506.0));
        assert_eq!(sum(TEXT, &MLSERVER), None, "not there is not zero");
        assert_eq!(sum("", &VLLM), None);
        assert_eq!(sum("vllm:prompt_tokens_total NaN\n<html>", &VLLM), None);
        assert_eq!(sum("vllm:prompt_tokens_total 0", &VLLM), Some(0.0));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String, tail in "[{} a\"0-9.]{0,20}") {
            let _ = sum(&text, &VLLM);
            let _ = sum(&format!("vllm:prompt_tokens_total{tail}"), &VLLM);
        }
    }
}
