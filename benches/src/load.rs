//! The load generator: closed loop (as fast as answers come) and open loop (at a rate, whatever comes back).

use crate::wire::Conn;
use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Latencies are kept to three digits between a microsecond and a minute.
const MAX_MICROS: u64 = 60_000_000;

/// What a run of load gave.
#[derive(Debug)]
pub struct Outcome {
    /// Answers.
    pub answers: u64,
    /// Of these, other than 2xx.
    pub refused: u64,
    /// How long it ran.
    pub took: Duration,
    /// Request to last byte, in microseconds.
    pub latency: Histogram<u64>,
    /// Request to first byte of the body, in microseconds.
    pub first_byte: Histogram<u64>,
}

impl Outcome {
    fn new() -> Result<Self> {
        Ok(Self {
            answers: 0,
            refused: 0,
            took: Duration::ZERO,
            latency: Histogram::new_with_max(MAX_MICROS, 3)?,
            first_byte: Histogram::new_with_max(MAX_MICROS, 3)?,
        })
    }

    /// Answers per second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.took.as_secs_f64()
    }

    fn count(&mut self, status: u16, latency: Duration, first_byte: Duration) {
        self.answers += 1;
        self.refused += u64::from(!(200..300).contains(&status));
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS));
        self.first_byte.saturating_record(u64::try_from(first_byte.as_micros()).unwrap_or(MAX_MICROS));
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.answers += other.answers;
        self.refused += other.refused;
        self.latency.add(&other.latency)?;
        self.first_byte.add(&other.first_byte)?;
        Ok(())
    }
}

/// `clients` connections ask as fast as answers come, for `time`. A connection that breaks is an error.
pub async fn closed(address: &str, request: &[u8], clients: usize, time: Duration) -> Result<Outcome> {
    staggered(address, request, clients, time, Duration::ZERO).await
}

/// The same, the clients' beginnings spread over `spread`: answers that all take the same time would else come in
/// bursts for ever.
pub async fn staggered(
    address: &str,
    request: &[u8],
    clients: usize,
    time: Duration,
    spread: Duration,
) -> Result<Outcome> {
    let mut sum = Outcome::new()?;
    let request: Arc<[u8]> = request.into();
    let mut conns = Vec::new();
    for _ in 0..clients {
        conns.push(Conn::open(address).await.with_context(|| format!("connecting to {address}"))?);
    }
    let begin = Instant::now();
    let end = begin + time;
    let mut tasks = tokio::task::JoinSet::new();
    for (i, mut conn) in conns.into_iter().enumerate() {
        let request = Arc::clone(&request);
        let first = begin + spread * u32::try_from(i)? / u32::try_from(clients)?;
        tasks.spawn(async move {
            tokio::time::sleep_until(first.into()).await;
            let mut outcome = Outcome::new()?;
            while Instant::now() < end {
                let asked = Instant::now();
                let answer = conn.ask(&request).await?;
                outcome.count(answer.status, asked.elapsed(), answer.first_byte - asked);
            }
            anyhow::Ok(outcome)
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        sum.add(&outcome??)?;
    }
    sum.took = begin.elapsed();
    ensure!(sum.answers > 0, "nothing was answered");
    Ok(sum)
}

/// `rate` requests a second over `clients` connections, for `time`. Each connection has a thread, whose sleep is
/// exact to some 60 µs where the runtime's timer is to a millisecond. Latency counts from when a request was due
/// if the answer before it came later than that, so that a stall is not left out by the requests that it kept
/// from being sent.
pub fn open(address: &str, request: &[u8], clients: usize, rate: u32, time: Duration) -> Result<Outcome> {
    let mut sum = Outcome::new()?;
    let count = u32::try_from(clients)?;
    let step = Duration::from_secs(1) / rate * count;
    let begin = Instant::now() + Duration::from_millis(20);
    let threads: Vec<_> = (0..count)
        .map(|i| {
            let (address, request) = (address.to_owned(), request.to_vec());
            let first = begin + step * i / count;
            std::thread::spawn(move || one_open(&address, &request, first, begin + time, step))
        })
        .collect();
    for thread in threads {
        let outcome = thread.join().map_err(|_| anyhow!("a client panicked"))?;
        sum.add(&outcome?)?;
    }
    sum.took = begin.elapsed();
    Ok(sum)
}

fn one_open(address: &str, request: &[u8], first: Instant, end: Instant, step: Duration) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut conn = runtime.block_on(Conn::open(address))?;
    let mut outcome = Outcome::new()?;
    let mut due = first;
    while due < end {
        let early = due.saturating_duration_since(Instant::now());
        let asked = if early.is_zero() {
            due
        } else {
            std::thread::sleep(early);
            Instant::now()
        };
        let answer = runtime.block_on(conn.ask(request))?;
        outcome.count(answer.status, asked.elapsed(), answer.first_byte - asked);
        due += step;
    }
    Ok(outcome)
}
