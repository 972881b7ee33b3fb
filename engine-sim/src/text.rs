//! What it says: nonsense that is the same for the same seed and prompt, and tokens that are counted alike.

use std::fmt::Write as _;

const WORDS: [&str; 32] = [
    "the",
    "canoe",
    "rides",
    "a",
    "long",
    "swell",
    "and",
    "its",
    "outrigger",
    "keeps",
    "it",
    "upright",
    "while",
    "wind",
    "turns",
    "north",
    "over",
    "reef",
    "lagoon",
    "stars",
    "guide",
    "each",
    "paddle",
    "home",
    "before",
    "rain",
    "fills",
    "sail",
    "islands",
    "rise",
    "slowly",
    "ahead",
];

/// Tokens of a text: one per four bytes begun, as byte-pair encodings roughly have, 1 at least.
pub(crate) fn tokens(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX).max(1)
}

/// SplitMix64's finisher: every bit of the input moves every bit of the output.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A prompt's fingerprint under a seed.
pub(crate) fn fingerprint(seed: u64, prompt: &[u8]) -> u64 {
    prompt.chunks(8).fold(mix(seed), |hash, chunk| {
        let word = chunk.iter().fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
        mix(hash ^ word)
    })
}

/// What is answered to one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    seed: u64,
    /// Tokens that it has.
    pub(crate) tokens: u32,
    /// Why it ends: `stop` or `length`.
    pub(crate) reason: &'static str,
    /// Bytes to show, where a stop string ends it within a token.
    shown: Option<usize>,
}

impl Answer {
    /// The answer to a prompt with that fingerprint: it ends by itself after 24 to 120 tokens (unless `ignore_eos`),
    /// before the first of the `stop` strings, or after `most` tokens.
    pub(crate) fn new(seed: u64, most: u32, ignore_eos: bool, stop: &[String]) -> Self {
        let natural = if ignore_eos { u32::MAX } else { 24 + u32::try_from(mix(seed) % 97).unwrap_or(0) };
        let reason = if natural < most { "stop" } else { "length" };
        let mut answer = Self { seed, tokens: natural.min(most).max(1), reason, shown: None };
        if !stop.is_empty() {
            answer.cut(stop);
        }
        answer
    }

    fn cut(&mut self, stop: &[String]) {
        let mut text = String::new();
        for n in 0..self.tokens {
            text.push_str(&self.token(n));
            if let Some(at) = stop.iter().filter_map(|s| text.find(s.as_str())).min() {
                (self.tokens, self.reason, self.shown) = (n + 1, "stop", Some(at));
                return;
            }
        }
    }

    /// Token number `n`, from 0.
    pub(crate) fn token(&self, n: u32) -> String {
        let draw = mix(self.seed ^ (u64::from(n) << 20)) % 32;
        let word = usize::try_from(draw).ok().and_then(|at| WORDS.get(at)).copied().unwrap_or("swell");
        let mut token = String::with_capacity(word.len() + 1);
        let _ = write!(token, "{}{word}", if n == 0 { "" } else { " " });
        token
    }

    /// What tokens `from..to` show.
    pub(crate) fn text(&self, from: u32, to: u32) -> String {
        let all = |to| (0..to).map(|n| self.token(n)).collect::<String>();
        let Some(shown) = self.shown else { return (from..to).map(|n| self.token(n)).collect() };
        let (before, mut text) = (all(from).len().min(shown), all(to));
        text.truncate(shown);
        text.split_off(before.min(text.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_prompt_say_the_same() {
        let one = Answer::new(fingerprint(1, b"hello"), 500, false, &[]);
        assert_eq!(one, Answer::new(fingerprint(1, b"hello"), 500, false, &[]));
        assert_eq!(one.reason, "stop");
        assert_ne!(one.text(0, 9), Answer::new(fingerprint(2, b"hello"), 500, false, &[]).text(0, 9));
        assert_ne!(one.text(0, 9), Answer::new(fingerprint(1, b"hellp"), 500, false, &[]).text(0, 9));
    }

    #[test]
    fn pieces_make_up_the_whole() {
        let answer = Answer::new(7, 16, true, &[]);
        assert_eq!((answer.tokens, answer.reason), (16, "length"));
        let pieces: String = (0..16).map(|n| answer.text(n, n + 1)).collect();
        assert_eq!(pieces, answer.text(0, 16));
        assert_eq!(pieces.split(' ').count(), 16);
    }

    #[test]
    fn a_stop_string_ends_it_and_is_not_shown() {
        let whole = Answer::new(7, 100, true, &[]).text(0, 100);
        let word = whole.split(' ').nth(5).unwrap().to_owned();
        let answer = Answer::new(7, 100, true, std::slice::from_ref(&word));
        let text = answer.text(0, answer.tokens);
        assert_eq!(answer.reason, "stop");
        assert!(answer.tokens <= 6 && !text.contains(&word) && whole.starts_with(&text));
        let pieces: String = (0..answer.tokens).map(|n| answer.text(n, n + 1)).collect();
        assert_eq!(pieces, text);
    }
}
