//! Whom a token lets in, and whom not.

use super::*;
use k8s_openapi::api::authentication::v1::UserInfo;
use std::collections::BTreeMap;

const GATEWAY: &str = "system:serviceaccount:outrigger-system:outrigger-gateway";

/// What the API server says of a projected token of ours.
fn status(username: &str) -> TokenReviewStatus {
    let extra = BTreeMap::from([
        (POD_NAME.to_owned(), vec!["chat-0".to_owned()]),
        (POD_UID.to_owned(), vec!["0b6c9b6e-7a3e".to_owned()]),
    ]);
    let username = Some(username.to_owned());
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["outrigger".to_owned()]),
        user: Some(UserInfo { username, extra: Some(extra), ..UserInfo::default() }),
        ..TokenReviewStatus::default()
    }
}

fn refusal(status: &TokenReviewStatus) -> String {
    identity(status, GATEWAY).unwrap_err().to_string()
}

/// proves O.8
#[test]
fn a_token_says_which_pod_it_is() {
    assert_eq!(identity(&status(GATEWAY), GATEWAY), Ok(Identity::Gateway("chat-0".into())));
    let pod = status("system:serviceaccount:team:default");
    assert_eq!(identity(&pod, GATEWAY), Ok(Identity::Endpoint("0b6c9b6e-7a3e".into())));
    // The same name in another namespace is somebody else.
    let namesake = status("system:serviceaccount:team:outrigger-gateway");
    assert!(matches!(identity(&namesake, GATEWAY), Ok(Identity::Endpoint(_))));
}

/// proves O.8
#[test]
fn a_token_that_is_anything_less_lets_nobody_in() {
    let good = status(GATEWAY);
    let expired = TokenReviewStatus {
        authenticated: Some(false),
        error: Some("token has expired".to_owned()),
        ..TokenReviewStatus::default()
    };
    assert_eq!(refusal(&expired), "the token was refused: token has expired");
    assert_eq!(refusal(&TokenReviewStatus::default()), "the token was refused: it is not valid");
    assert!(refusal(&TokenReviewStatus { audiences: None, ..good.clone() }).contains("allowed: outrigger"));
    let other = Some(vec!["https://kubernetes.default.svc".to_owned()]);
    assert!(refusal(&TokenReviewStatus { audiences: other, ..good.clone() }).contains("another audience"));
    assert!(refusal(&status("alice")).contains("a service account's"));
    let mut unbound = good.clone();
    unbound.user.as_mut().unwrap().extra = None;
    assert!(refusal(&unbound).contains("bound to no pod"));
    let mut two = good;
    let extra = two.user.as_mut().unwrap().extra.as_mut().unwrap();
    extra.insert(POD_UID.to_owned(), vec!["a".to_owned(), "b".to_owned()]);
    assert!(refusal(&two).contains("bound to no pod"));
}

#[test]
fn what_is_no_token_costs_no_request() {
    assert!(looks_like_one("eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsib3V0cmlnZ2VyIl19.c2ln-_"));
    for token in
        ["", "a", "a.b", "a.b.c.d", "a..c", "a.b.c d", "a.b.\n", &format!("a.{}.c", "b".repeat(20_000))]
    {
        assert!(!looks_like_one(token), "{}", token.len());
    }
}
