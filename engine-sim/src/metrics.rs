//! `/metrics`, under the names and with the labels that vLLM exports.

use std::fmt::Write as _;
use std::time::Duration;

/// Bounds of vLLM's histograms, as its 0.32 exports them.
const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const BETWEEN_TOKENS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const WHOLE: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const ITERATION: [f64; 13] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// Why requests end, as vLLM's `finished_reason` has it.
pub(crate) const REASONS: [&str; 5] = ["stop", "length", "abort", "error", "repetition"];

#[derive(Debug)]
struct Histogram {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    /// Not cumulative; the last is beyond every bound.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, help, bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }

    fn write(&self, out: &mut String, labels: &str) {
        let name = self.name;
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", self.help);
        let mut below = 0;
        for (count, bound) in self.counts.iter().zip(self.bounds.iter().map(Some).chain([None])) {
            below += count;
            match bound {
                Some(bound) => {
                    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound:?}\"}} {below}");
                }
                None => {
                    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {below}");
                }
            }
        }
        let _ = writeln!(out, "{name}_count{{{labels}}} {below}\n{name}_sum{{{labels}}} {}", self.sum);
    }
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) prompt_tokens: u64,
    pub(crate) generation_tokens: u64,
    pub(crate) preemptions: u64,
    /// Requests whose client left. vLLM counts them nowhere: neither as ended nor in a latency.
    pub(crate) aborted: u64,
    /// V1 and V2 calls that were worked on.
    pub(crate) calls: u64,
    /// Rows in them.
    pub(crate) rows: u64,
    ended: [u64; REASONS.len()],
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    iteration: Histogram,
}

/// What is read when somebody asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) cache: f64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            prompt_tokens: 0,
            generation_tokens: 0,
            preemptions: 0,
            aborted: 0,
            calls: 0,
            rows: 0,
            ended: [0; REASONS.len()],
            first_token: Histogram::new(
                "vllm:time_to_first_token_seconds",
                "Histogram of time to first token in seconds.",
                &FIRST_TOKEN,
            ),
            between_tokens: Histogram::new(
                "vllm:inter_token_latency_seconds",
                "Histogram of inter-token latency in seconds.",
                &BETWEEN_TOKENS,
            ),
            whole: Histogram::new(
                "vllm:e2e_request_latency_seconds",
                "Histogram of e2e request latency in seconds.",
                &WHOLE,
            ),
            iteration: Histogram::new(
                "vllm:iteration_tokens_total",
                "Histogram of number of tokens per engine_step.",
                &ITERATION,
            ),
        }
    }

    pub(crate) fn first_token(&mut self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    pub(crate) fn next_token(&mut self, after: Duration) {
        self.between_tokens.observe(after.as_secs_f64());
    }

    pub(crate) fn iteration(&mut self, tokens: u32) {
        self.iteration.observe(f64::from(tokens));
    }

    pub(crate) fn ended(&mut self, reason: &str, after: Duration) {
        if let Some((_, count)) = REASONS.iter().zip(&mut self.ended).find(|(name, _)| **name == reason) {
            *count += 1;
        }
        self.whole.observe(after.as_secs_f64());
    }

    /// What has no labels of its own: name, type, help, value.
    fn plain(&self, load: Load) -> [(&'static str, &'static str, &'static str, f64); 8] {
        let (gauge, counter) = ("gauge", "counter");
        [
            (
                "vllm:num_requests_running",
                gauge,
                "Number of requests in model execution batches.",
                exact(load.running),
            ),
            (
                "vllm:num_requests_waiting",
                gauge,
                "Number of requests waiting to be processed.",
                exact(load.waiting),
            ),
            ("vllm:kv_cache_usage_perc", gauge, "KV-cache usage. 1 means 100 percent usage.", load.cache),
            (
                "vllm:num_preemptions_total",
                counter,
                "Cumulative number of preemption from the engine.",
                count(self.preemptions),
            ),
            (
                "vllm:prompt_tokens_total",
                counter,
                "Number of prefill tokens processed.",
                count(self.prompt_tokens),
            ),
            (
                "vllm:generation_tokens_total",
                counter,
                "Number of generation tokens processed.",
                count(self.generation_tokens),
            ),
            ("sim:calls_total", counter, "V1 and V2 calls that were worked on.", count(self.calls)),
            ("sim:rows_total", counter, "Rows in V1 and V2 calls.", count(self.rows)),
        ]
    }

    /// In the text format of Prometheus.
    pub(crate) fn render(&self, model: &str, load: Load) -> String {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels = format!("engine=\"0\",model_name=\"{model}\"");
        let mut out = String::with_capacity(8 * 1024);
        for (name, kind, help, value) in self.plain(load) {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value:?}");
        }
        let waiting = exact(load.waiting);
        let mut by_label = |name: &str, kind: &str, help: &str, label: &str, values: &[(&str, f64)]| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (of, value) in values {
                let _ = writeln!(out, "{name}{{{labels},{label}=\"{of}\"}} {value:?}");
            }
        };
        by_label(
            "vllm:num_requests_waiting_by_reason",
            "gauge",
            "Number of requests waiting to be processed, by reason.",
            "reason",
            &[("capacity", waiting), ("deferred", 0.0)],
        );
        let ended: Vec<_> = REASONS.iter().copied().zip(self.ended.map(count)).collect();
        by_label(
            "vllm:request_success_total",
            "counter",
            "Count of successfully processed requests.",
            "finished_reason",
            &ended,
        );
        for histogram in [&self.iteration, &self.first_token, &self.between_tokens, &self.whole] {
            histogram.write(&mut out, &labels);
        }
        out
    }
}

fn exact(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}

#[allow(clippy::cast_precision_loss, reason = "the text format has doubles; exact up to 2^53")]
fn count(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_labels_quoted() {
        let mut metrics = Metrics::new();
        metrics.iteration(1);
        metrics.iteration(9);
        metrics.iteration(100_000);
        metrics.ended("length", Duration::from_millis(400));
        let text = metrics.render("a\"b", Load { running: 2, waiting: 3, cache: 0.5 });
        for line in [
            "vllm:num_requests_running{engine=\"0\",model_name=\"a\\\"b\"} 2.0",
            "vllm:num_requests_waiting{engine=\"0\",model_name=\"a\\\"b\"} 3.0",
            "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"a\\\"b\"} 0.5",
            "vllm:request_success_total{engine=\"0\",model_name=\"a\\\"b\",finished_reason=\"length\"} 1.0",
            "vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"a\\\"b\",le=\"1.0\"} 1",
            "vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"a\\\"b\",le=\"16.0\"} 2",
            "vllm:iteration_tokens_total_bucket{engine=\"0\",model_name=\"a\\\"b\",le=\"+Inf\"} 3",
            "vllm:iteration_tokens_total_count{engine=\"0\",model_name=\"a\\\"b\"} 3",
            "vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"a\\\"b\"} 100010",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
