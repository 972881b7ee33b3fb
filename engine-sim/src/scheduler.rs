//! Continuous batching as vLLM does it, pure: each iteration gives every running sequence one token and spends what
//! is left of its token budget on the prompts of new ones; KV-cache blocks bound how many run.

use crate::timing::Timing;
use std::collections::VecDeque;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// One sequence's name within an engine; grows and is never used twice.
pub type SequenceId = u64;

/// Bounds on what runs at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that run at once, at least 1.
    pub max_sequences: u32,
    /// Tokens, prefilled and decoded, of one iteration; at least `max_sequences` is sensible, 1 works.
    pub max_batched_tokens: u32,
    /// KV-cache blocks in all.
    pub blocks: u32,
    /// Tokens per block, at least 1.
    pub block_size: u32,
    /// Sequences that wait; a further one is refused.
    pub max_waiting: u32,
}

impl Default for Limits {
    /// vLLM's defaults for sequences, batched tokens and block size; a cache for 64 Ki tokens.
    fn default() -> Self {
        Self {
            max_sequences: 256,
            max_batched_tokens: 2048,
            blocks: 4096,
            block_size: 16,
            max_waiting: 65_536,
        }
    }
}

impl Limits {
    /// The tokens that the whole KV cache takes.
    pub fn tokens(&self) -> u32 {
        self.blocks.saturating_mul(self.block_size)
    }

    fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_size.max(1))
    }
}

/// What happened to a sequence in an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which sequence.
    pub id: SequenceId,
    /// Its new tokens in all.
    pub tokens: u32,
    /// Whether that was the last one.
    pub finished: bool,
    /// When, as time since the engine's start.
    pub at: Duration,
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// New tokens, in order.
    pub progress: Vec<Progress>,
    /// Tokens (prefilled and decoded) of each iteration that ended.
    pub iterations: Vec<u32>,
    /// Prompt tokens that were prefilled in them.
    pub prefilled: u32,
    /// Sequences that lost their blocks and start over.
    pub preempted: u32,
    /// When to step again at the latest; absent while nothing is there to do.
    pub wake: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Sequence {
    id: SequenceId,
    /// When the scheduler may see it.
    ready: Duration,
    prompt: u32,
    /// New tokens that it will have.
    wanted: u32,
    generated: u32,
    /// Of `prompt + generated`, how many tokens are in the KV cache.
    cached: u32,
    blocks: u32,
    /// Tokens of the present iteration.
    planned: u32,
}

impl Sequence {
    fn length(&self) -> u32 {
        self.prompt + self.generated
    }
}

/// The scheduler's state.
#[derive(Clone, Debug)]
pub struct Scheduler {
    limits: Limits,
    arriving: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    free: u32,
    /// When the present iteration ends.
    ends: Option<Duration>,
    frozen: bool,
}

/// Iterations that a late caller is made up for: a timer's coarseness, not a stopped machine.
const CATCH_UP: Duration = Duration::from_millis(5);

impl Scheduler {
    /// An idle one.
    pub fn new(limits: Limits) -> Self {
        let free = limits.blocks;
        Self {
            limits,
            arriving: Vec::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            free,
            ends: None,
            frozen: false,
        }
    }

    /// Sequences that run, that wait, and the share of KV-cache blocks in use.
    pub fn load(&self) -> (usize, usize, f64) {
        let used = f64::from(self.limits.blocks - self.free) / f64::from(self.limits.blocks.max(1));
        (self.running.len(), self.waiting.len(), used)
    }

    /// Whether another sequence may be submitted.
    pub fn has_room(&self) -> bool {
        self.arriving.len() + self.waiting.len() < self.limits.max_waiting as usize
    }

    /// A frozen scheduler keeps everything and does nothing.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Takes a sequence with `prompt` tokens that will have `wanted` new ones (1 at least), to be seen from `ready`
    /// on. Both together must fit [`Limits::tokens`], or it could never run: then it isn't taken.
    pub fn submit(&mut self, id: SequenceId, prompt: u32, wanted: u32, ready: Duration) -> bool {
        let fits = prompt.checked_add(wanted).is_some_and(|all| all <= self.limits.tokens());
        if !fits || !self.has_room() {
            return false;
        }
        let wanted = wanted.max(1);
        let prompt = prompt.max(1);
        self.arriving.push(Sequence {
            id,
            ready,
            prompt,
            wanted,
            generated: 0,
            cached: 0,
            blocks: 0,
            planned: 0,
        });
        true
    }

    /// Forgets a sequence and frees its blocks. False when it isn't there (any more).
    pub fn abort(&mut self, id: SequenceId) -> bool {
        let before = self.arriving.len() + self.waiting.len() + self.running.len();
        self.arriving.retain(|s| s.id != id);
        self.waiting.retain(|s| s.id != id);
        if let Some(at) = self.running.iter().position(|s| s.id == id) {
            self.free += self.running.remove(at).blocks;
        }
        before != self.arriving.len() + self.waiting.len() + self.running.len()
    }

    /// Ends the iterations that are over at `now` and begins the next.
    pub fn step(&mut self, now: Duration, timing: &Timing) -> Stepped {
        let mut stepped = Stepped::default();
        if self.frozen {
            return stepped;
        }
        loop {
            let begin = match self.ends {
                Some(ends) if ends > now => break,
                Some(ends) => {
                    self.finish(ends, &mut stepped);
                    ends.max(now.saturating_sub(CATCH_UP))
                }
                None => now,
            };
            self.arrive(begin);
            self.ends = self.begin(begin, timing, &mut stepped);
            if self.ends.is_none() {
                // Somebody who arrived between this iteration's end and now is seen now.
                self.arrive(now);
                self.ends = self.begin(now, timing, &mut stepped);
                break;
            }
        }
        let arrival = self.arriving.iter().map(|s| s.ready).min();
        stepped.wake = match (self.ends, arrival) {
            // An iteration under way sees arrivals when it ends.
            (Some(ends), _) => Some(ends),
            (None, arrival) => arrival,
        };
        stepped
    }

    fn arrive(&mut self, now: Duration) {
        if self.arriving.iter().all(|s| s.ready > now) {
            return;
        }
        let (mut ready, later): (Vec<_>, Vec<_>) = self.arriving.drain(..).partition(|s| s.ready <= now);
        ready.sort_by_key(|s| (s.ready, s.id));
        self.waiting.extend(ready);
        self.arriving = later;
    }

    /// Plans an iteration: running sequences first, then waiting ones in their order while sequences, blocks and the
    /// token budget last.
    fn begin(&mut self, now: Duration, timing: &Timing, stepped: &mut Stepped) -> Option<Duration> {
        self.make_room(stepped);
        let mut budget = self.limits.max_batched_tokens.max(1);
        let (mut decoding, mut prefilled) = (0, 0);
        for sequence in &mut self.running {
            let missing = sequence.length() - sequence.cached;
            sequence.planned = missing.min(budget);
            budget -= sequence.planned;
            if missing == 1 && sequence.generated > 0 {
                decoding += sequence.planned;
            } else {
                prefilled += sequence.planned;
            }
        }
        while budget > 0 && self.running.len() < self.limits.max_sequences.max(1) as usize {
            let Some(next) = self.waiting.front() else { break };
            // With the block for its first new token, so that it isn't preempted at once.
            let blocks = self.limits.blocks_for(next.length() + 1);
            if blocks > self.free && !self.running.is_empty() {
                break;
            }
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            sequence.blocks = blocks.min(self.free);
            self.free -= sequence.blocks;
            sequence.planned = sequence.length().min(budget);
            budget -= sequence.planned;
            prefilled += sequence.planned;
            self.running.push(sequence);
        }
        if decoding + prefilled == 0 {
            return None;
        }
        Some(now + timing.iteration(prefilled, decoding))
    }

    /// Gives every running sequence the block that its next token needs; where none is free, the one that came last
    /// loses its own and starts over.
    fn make_room(&mut self, stepped: &mut Stepped) {
        let mut at = 0;
        while let Some(sequence) = self.running.get_mut(at) {
            let needed = self.limits.blocks_for(sequence.length()).saturating_sub(sequence.blocks);
            if needed <= self.free {
                sequence.blocks += needed;
                self.free -= needed;
                at += 1;
                continue;
            }
            let Some(mut victim) = self.running.pop() else { break };
            self.free += victim.blocks;
            (victim.blocks, victim.cached, victim.planned) = (0, 0, 0);
            self.waiting.push_front(victim);
            stepped.preempted += 1;
        }
    }

    fn finish(&mut self, at: Duration, stepped: &mut Stepped) {
        let mut tokens = 0;
        for sequence in &mut self.running {
            tokens += sequence.planned;
            let decoding = sequence.generated > 0 && sequence.length() - sequence.cached == 1;
            sequence.cached += sequence.planned;
            if !decoding {
                stepped.prefilled += sequence.planned;
            }
            if sequence.planned > 0 && sequence.cached == sequence.length() {
                sequence.generated += 1;
                let finished = sequence.generated >= sequence.wanted;
                stepped.progress.push(Progress { id: sequence.id, tokens: sequence.generated, finished, at });
            }
            sequence.planned = 0;
        }
        let free = &mut self.free;
        self.running.retain(|s| {
            let stays = s.generated < s.wanted;
            *free += if stays { 0 } else { s.blocks };
            stays
        });
        if tokens > 0 {
            stepped.iterations.push(tokens);
        }
    }
}
