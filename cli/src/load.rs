//! Open-loop load: requests are sent at a rate, whether or not the ones before were answered, as callers do.
//!
//! Bounded: at most `max_in_flight` requests are open, and an arrival beyond that is counted, not queued. Used by the
//! show of `outrigger up` and by `outrigger load`.

mod client;
mod command;
mod counts;
#[cfg(test)]
mod tests;

pub use client::Target;
pub use command::{Args, run};
pub use counts::Counts;

use client::{Client, Request};
use counts::Ended;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

/// The highest rate in requests per second that is taken: above it one thread measures itself.
pub const MAX_RATE: f64 = 10_000.0;

/// What is sent where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to.
    pub target: Target,
    /// The model that is asked for.
    pub model: String,
    /// Requests per second, above 0 and up to [`MAX_RATE`]. Arrivals are drawn: the gaps between them are
    /// exponential, as those of independent callers are.
    pub rate: f64,
    /// The share of requests, 0 to 1, that ask for a stream.
    pub streaming: f64,
    /// How many sessions the requests belong to; 0: none has a session.
    pub sessions: u32,
    /// Tokens that each answer may have.
    pub max_tokens: u32,
    /// Requests that may be open at a time.
    pub max_in_flight: usize,
    /// How long one answer may take until it is given up and counted as failed.
    pub timeout: Duration,
    /// The same seed draws the same requests.
    pub seed: u64,
}

impl Config {
    /// Ten requests per second to `target` for `model`, half of them streamed, of 64 sessions.
    pub fn new(target: Target, model: &str) -> Self {
        Self {
            target,
            model: model.to_owned(),
            rate: 10.0,
            streaming: 0.5,
            sessions: 64,
            max_tokens: 16,
            max_in_flight: 256,
            timeout: Duration::from_secs(60),
            seed: 1,
        }
    }
}

/// Load under way, until it is dropped or stopped.
#[derive(Debug)]
pub struct Load {
    rate: f64,
    counts: Arc<Mutex<Counts>>,
    sender: JoinHandle<()>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Load {
    /// Starts on the current runtime.
    ///
    /// # Errors
    /// When the rate or the share is out of range.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        anyhow::ensure!(
            config.rate > 0.0 && config.rate <= MAX_RATE,
            "rate {}: allowed is above 0 and up to {MAX_RATE} requests per second",
            config.rate
        );
        anyhow::ensure!(
            (0.0..=1.0).contains(&config.streaming),
            "streaming {}: allowed is a share from 0 to 1",
            config.streaming
        );
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let rate = config.rate;
        let sender = tokio::spawn(send(config, Arc::clone(&counts), stopped));
        Ok(Self { rate, counts, sender, stop })
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts { rate: self.rate, ..lock(&self.counts).clone() }
    }

    /// Sends nothing new; what is open goes on.
    pub fn halt(&self) {
        self.stop.send_replace(true);
    }

    /// Sends nothing new, waits for what is open (at most the configured time-out) and returns the last counts.
    pub async fn stop(mut self) -> Counts {
        self.stop.send_replace(true);
        // A sender that panicked has nothing open any more.
        let _ = (&mut self.sender).await;
        self.counts()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

/// A count is whole after each update, so one that was interrupted by a panic is still good.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send(config: Config, counts: Arc<Mutex<Counts>>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let client = Arc::new(Client::new(config.target.clone(), config.max_in_flight));
    let room = Arc::new(Semaphore::new(config.max_in_flight));
    let mut random = fastrand::Rng::with_seed(config.seed);
    let mut open = JoinSet::new();
    let mut due = Instant::now();
    loop {
        due += gap(&mut random, config.rate);
        tokio::select! {
            () = sleep_until(due) => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
        while open.try_join_next().is_some() {}
        let request = draw(&mut random, &config);
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            lock(&counts).unsent += 1;
            continue;
        };
        lock(&counts).sent += 1;
        let (client, counts, limit) = (Arc::clone(&client), Arc::clone(&counts), config.timeout);
        open.spawn(async move {
            let ended = timeout(limit, client.ask(request)).await.unwrap_or(Ended::FAILED);
            lock(&counts).count(&ended);
            drop(permit);
        });
    }
    while open.join_next().await.is_some() {}
}

/// The time to the next arrival: exponential, with the rate's mean.
fn gap(random: &mut fastrand::Rng, rate: f64) -> Duration {
    // 1 - f64() lies in (0, 1]: its logarithm is finite.
    Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate)
}

fn draw(random: &mut fastrand::Rng, config: &Config) -> Request {
    const QUESTIONS: [&str; 4] = [
        "What is an outrigger?",
        "Name three rivers and where they end.",
        "Write a line about the sea at night.",
        "How does a canary release differ from a blue-green one? Answer in one short paragraph, please.",
    ];
    let stream = random.f64() < config.streaming;
    let question = random.choice(QUESTIONS).unwrap_or("?");
    let body = serde_json::json!({
        "model": config.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": config.max_tokens,
        "stream": stream,
    });
    Request {
        body: body.to_string().into(),
        stream,
        session: (config.sessions > 0).then(|| format!("caller-{}", random.u32(0..config.sessions))),
    }
}
