//! What a person asks of a canary: `<verb>@<revision>/<step>/<nonce>`, the text of the annotation
//! `outrigger.dev/action`. It names what the person saw, so that it is never done to anything else.

use outrigger_wire::RevisionId;
use std::fmt;
use std::str::FromStr;

/// The longest text that is read, in characters.
pub const MAX_TEXT: usize = 200;
/// The longest nonce, in characters.
pub const MAX_NONCE: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To the next step now, and from the last one to all callers, whatever hold and analysis say.
    Promote,
    /// Stay at this step until resumed, promoted or aborted.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Roll back now.
    Abort,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Promote, Self::Pause, Self::Resume, Self::Abort];

    /// The word in the annotation, which is also the verb of RBAC that lets a person ask for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is asked, of which canary at which step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What.
    pub verb: Verb,
    /// The canary's revision.
    pub revision: RevisionId,
    /// Its step, as `status.canary.step` counts: from 0.
    pub step: u32,
    /// Tells this from every other action: letters, digits, `-` and `_`.
    pub nonce: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}/{}", self.verb, self.revision, self.step, self.nonce)
    }
}

impl FromStr for Asked {
    type Err = String;

    /// # Errors
    /// Which part can't be read, and what is allowed there.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "an action has the form <verb>@<revision>/<step>/<nonce>";
        let (verb, rest) = text.split_once('@').ok_or(form)?;
        let mut parts = rest.split('/');
        let (Some(revision), Some(step), Some(nonce), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form.to_owned());
        };
        let verb = Verb::ALL
            .into_iter()
            .find(|known| known.as_str() == verb)
            .ok_or("the verb must be promote, pause, resume or abort")?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if revision.is_empty() || !revision.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("the revision must be one that status.canary.revision gives".to_owned());
        }
        let step = Some(step).filter(|step| digits(step)).and_then(|step| step.parse().ok());
        let step = step.ok_or("the step must be a number, as status.canary.step gives it")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if nonce.is_empty() || nonce.len() > MAX_NONCE || !nonce.bytes().all(allowed) {
            return Err(format!("the nonce must be 1 to {MAX_NONCE} letters, digits, - and _"));
        }
        Ok(Self { verb, revision: revision.into(), step, nonce: nonce.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for verb in Verb::ALL {
            let asked = Asked { verb, revision: "6f9c2e1b4d".into(), step: 2, nonce: "a-1_B".to_owned() };
            assert_eq!(asked.to_string().parse(), Ok(asked));
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_what_is_allowed() {
        let nonce = format!("pause@a1/0/{}", "n".repeat(65));
        for (text, words) in [
            ("", "the form"),
            ("promote", "the form"),
            ("promote@a1/0", "the form"),
            ("promote@a1/0/n/n", "the form"),
            ("Promote@a1/0/n", "the verb"),
            ("delete@a1/0/n", "the verb"),
            (" promote@a1/0/n", "the verb"),
            ("promote@/0/n", "the revision"),
            ("promote@a 1/0/n", "the revision"),
            ("promote@a1/+1/n", "the step"),
            ("promote@a1/-1/n", "the step"),
            ("promote@a1/99999999999/n", "the step"),
            ("promote@a1/0/", "the nonce"),
            ("promote@a1/0/n\n", "the nonce"),
            (nonce.as_str(), "the nonce"),
        ] {
            let told = text.parse::<Asked>().unwrap_err();
            assert!(told.contains(words), "{text:?}: {told}");
        }
    }
}
