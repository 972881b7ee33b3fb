//! Who holds a token: what the API server says of it, as an identity.

use crate::names;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use outrigger_table::{Identity, Refused};
use std::future::Future;
use std::pin::Pin;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// A token that is longer is none.
const LONGEST_TOKEN: usize = 16 << 10;

/// Says who holds a token.
pub trait Reviewer: Send + Sync {
    /// Who it is.
    fn review(&self, token: String) -> Reviewing<'_>;
}

/// An answer under way.
pub type Reviewing<'a> = Pin<Box<dyn Future<Output = Result<Identity, Refused>> + Send + 'a>>;

/// Asks the API server.
pub struct TokenReviews {
    api: Api<TokenReview>,
    gateway: String,
}

impl std::fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviews").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl TokenReviews {
    /// The gateway's service account, by namespace and name, makes a pod a gateway.
    pub fn new(client: Client, namespace: &str, gateway: &str) -> Self {
        Self { api: Api::all(client), gateway: format!("system:serviceaccount:{namespace}:{gateway}") }
    }
}

impl Reviewer for TokenReviews {
    fn review(&self, token: String) -> Reviewing<'_> {
        Box::pin(async move {
            if !looks_like_one(&token) {
                return Err(Refused::Token("token is none; allowed: a service account's".to_owned()));
            }
            let spec = TokenReviewSpec { token, audiences: Some(vec![names::AUDIENCE.to_owned()]) };
            let review = TokenReview { spec, ..TokenReview::default() };
            let answer = self.api.create(&PostParams::default(), &review).await.map_err(|error| {
                tracing::warn!(%error, "the API server did not say who holds a token");
                Refused::Unavailable("the API server did not say who holds the token; try again".to_owned())
            })?;
            identity(&answer.status.unwrap_or_default(), &self.gateway)
        })
    }
}

/// Whether it is worth a request to the API server: three parts in base64url.
fn looks_like_one(token: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    token.len() <= LONGEST_TOKEN && token.split('.').count() == 3 && token.split('.').all(is_part)
}

/// Who it is, by what the API server said; `gateway` is the user name of the gateway's service account.
///
/// # Errors
/// In words: why this token lets nobody in.
pub fn identity(status: &TokenReviewStatus, gateway: &str) -> Result<Identity, Refused> {
    let refused = |words: String| Err(Refused::Token(words));
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("it is not valid");
        return refused(format!("the token was refused: {why}"));
    }
    // An API server that knows no audiences leaves them out, and then says nothing of ours.
    if !status.audiences.iter().flatten().any(|audience| audience == names::AUDIENCE) {
        return refused(format!("the token is for another audience; allowed: {}", names::AUDIENCE));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if !name.starts_with("system:serviceaccount:") {
        return refused(format!("the token is `{name}`'s; allowed: a service account's"));
    }
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) => Some(value.as_str()),
        _ => None,
    };
    let (Some(pod), Some(uid)) = (one(POD_NAME), one(POD_UID)) else {
        return refused("the token is bound to no pod; allowed: one projected into a pod".to_owned());
    };
    match name == gateway {
        true => Ok(Identity::Gateway(pod.into())),
        false => Ok(Identity::Endpoint(uid.into())),
    }
}

#[cfg(test)]
mod tests;
