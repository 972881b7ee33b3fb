//! Who somebody at the other end of a connection is, as a certificate says it.

use outrigger_wire::stream::Report;
use outrigger_wire::{EndpointId, GatewayId, Subscription};
use rustls::pki_types::CertificateDer;
use std::fmt;

/// What the URI in a certificate begins with.
const SCHEME: &str = "outrigger://";
/// The longest name, as Kubernetes allows them.
const LONGEST_NAME: usize = 253;

/// Who somebody is. In a certificate it is the one URI among the alternative names: `outrigger://gateway/NAME`,
/// `outrigger://endpoint/UID` or `outrigger://operator/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A gateway, by its pod's name: hears all routes, reports as itself.
    Gateway(GatewayId),
    /// A sidecar, by its pod's uid: hears its own configuration, reports as itself.
    Endpoint(EndpointId),
    /// A replica of the operator, by its pod's name: hands on what others reported.
    Operator(String),
}

impl Identity {
    /// The URI that stands for it in a certificate.
    ///
    /// # Errors
    /// In words, when the name has bytes that Kubernetes gives to no pod: nothing must be signed that could be
    /// read as another's name.
    pub fn uri(&self) -> Result<String, String> {
        let (kind, name) = match self {
            Self::Gateway(id) => ("gateway", id.as_str()),
            Self::Endpoint(id) => ("endpoint", id.as_str()),
            Self::Operator(name) => ("operator", name.as_str()),
        };
        match is_name(name) {
            true => Ok(format!("{SCHEME}{kind}/{name}")),
            false => Err(format!(
                "the name `{}` of a {kind} is none; allowed: a-z, 0-9, `-` and `.`, 1 to {LONGEST_NAME} bytes",
                name.escape_default()
            )),
        }
    }

    /// Who a URI stands for.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (kind, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        if !is_name(name) {
            return None;
        }
        match kind {
            "gateway" => Some(Self::Gateway(name.into())),
            "endpoint" => Some(Self::Endpoint(name.into())),
            "operator" => Some(Self::Operator(name.to_owned())),
            _ => None,
        }
    }

    /// Who a verified certificate says its holder is; nobody when it names none, or more than one.
    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut uris = certificate.valid_uri_names();
        let uri = uris.next()?;
        match uris.next() {
            None => Self::from_uri(uri),
            Some(_) => None,
        }
    }

    /// Whether it may hear what this subscription hears.
    pub(crate) fn may_subscribe(&self, who: &Subscription) -> bool {
        match (self, who) {
            (Self::Gateway(me), Subscription::Gateway(who)) => me == who,
            (Self::Endpoint(me), Subscription::Endpoint(who)) => me == who,
            _ => false,
        }
    }

    /// Whether it may bring this report.
    pub(crate) fn may_report(&self, report: &Report) -> bool {
        match (self, report) {
            (Self::Gateway(me), Report::Gateway(report)) => *me == report.gateway,
            (Self::Endpoint(me), Report::Endpoint(report)) => *me == report.endpoint,
            (Self::Operator(_), _) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(id) => write!(f, "gateway/{id}"),
            Self::Endpoint(id) => write!(f, "endpoint/{id}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        for identity in [
            Identity::Gateway("outrigger-gateway-7d4b-x2x".into()),
            Identity::Endpoint("0b6c9b6e-7a3e-4c8f-9d2c-1d1f0e5b7a11".into()),
            Identity::Operator("outrigger-operator-0".to_owned()),
        ] {
            assert_eq!(Identity::from_uri(&identity.uri().unwrap()), Some(identity));
        }
    }

    #[test]
    fn what_could_be_read_as_anothers_name_is_never_signed() {
        for name in ["", "a/b", "A", "a b", "a\0", "ä", "a%2e", "a@b", "a?b", &"a".repeat(254)] {
            assert!(Identity::Gateway(name.into()).uri().is_err(), "{name:?}");
        }
        for uri in [
            "outrigger://gateway/",
            "outrigger://gateway",
            "outrigger://gateway/a/b",
            "outrigger://Gateway/a",
            "outrigger://other/a",
            "spiffe://gateway/a",
            "outrigger:/gateway/a",
            "",
        ] {
            assert_eq!(Identity::from_uri(uri), None, "{uri:?}");
        }
    }
}
