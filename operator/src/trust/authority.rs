//! Authorities and what they sign. The Secret's layout: `tls.crt` and `tls.key` are those of the one that signs,
//! `next.crt` and `next.key` of the one that will, `old.crt` is the one before.

use super::rotation::{Known, Span, Step, after};
use jiff::Timestamp;
use outrigger_table::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Certificates begin to hold this long before they are made: clocks of nodes differ.
const BACKDATE: Duration = Duration::from_secs(300);
/// Annotation of the Secret: since when all bundles hold the next authority.
pub const PUBLISHED: &str = "outrigger.dev/next-published";
/// Annotation of the Secret: since when the old authority signs no more.
pub const REPLACED: &str = "outrigger.dev/old-replaced";

/// One authority with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Signer {
    certificate: String,
    key: String,
    span: Span,
}

/// Without the key, which must not get into a log.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("span", &self.span).finish_non_exhaustive()
    }
}

/// All that the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// The one that signs.
    pub current: Signer,
    /// The one that will, and since when all bundles hold it.
    pub next: Option<(Signer, Option<Timestamp>)>,
    /// The one before (PEM), and since when it signs no more.
    pub old: Option<(String, Timestamp)>,
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A server, by names and address.
    Server {
        /// DNS names.
        names: Vec<String>,
        /// An address by which it is dialled.
        address: Option<IpAddr>,
    },
    /// A client.
    Client(Identity),
}

/// A certificate, and until when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// PEM.
    pub certificate: String,
    /// Never beyond its authority.
    pub expires: Timestamp,
}

impl Signer {
    /// A new authority.
    ///
    /// # Errors
    /// In words; when there is no randomness.
    pub fn make(now: Timestamp, life: Duration) -> Result<Self, String> {
        let expires = after(now, life);
        let made = || {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = held(now, expires);
            params.distinguished_name.push(DnType::CommonName, format!("outrigger {}", now.as_second()));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key)?.pem();
            Ok::<_, rcgen::Error>(Self {
                certificate,
                key: key.serialize_pem(),
                span: Span { made: now, expires },
            })
        };
        made().map_err(|error| format!("an authority can't be made: {error}"))
    }

    /// One from the Secret.
    fn read(certificate: String, key: String, name: &str) -> Result<Self, String> {
        let span = span(&certificate).map_err(|why| format!("{name}.crt: {why}"))?;
        let pair = KeyPair::from_pem(&key).map_err(|error| format!("{name}.key is no key: {error}"))?;
        let public = public_key(&certificate).map_err(|why| format!("{name}.crt: {why}"))?;
        match public == pair.subject_public_key_info() {
            true => Ok(Self { certificate, key, span }),
            false => Err(format!("{name}.key is not the key of {name}.crt")),
        }
    }

    /// Signs a certificate for whoever has this key.
    ///
    /// # Errors
    /// In words; a name that can't be signed.
    pub fn sign(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        now: Timestamp,
        life: Duration,
    ) -> Result<Signed, String> {
        let expires = after(now, life).min(self.span.expires);
        let mut params = held(now, expires);
        let uri = match subject {
            Subject::Client(identity) => identity.uri()?,
            Subject::Server { .. } => String::new(),
        };
        let signed = || {
            match subject {
                Subject::Client(_) => {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                    params.subject_alt_names.push(SanType::URI(uri.try_into()?));
                }
                Subject::Server { names, address } => {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                    for name in names {
                        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
                    }
                    params.subject_alt_names.extend(address.map(SanType::IpAddress));
                }
            }
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.use_authority_key_identifier_extension = true;
            let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
            Ok::<_, rcgen::Error>(params.signed_by(key, &issuer)?.pem())
        };
        let certificate = signed().map_err(|error| format!("a certificate can't be signed: {error}"))?;
        Ok(Signed { certificate, expires })
    }
}

/// The key that a request for a certificate proves to have; all else in it counts for nothing.
///
/// # Errors
/// In words; also another kind of key than P-256, which no proxy of ours makes.
pub fn requested_key(csr: &str) -> Result<rcgen::PublicKey, String> {
    let request = CertificateSigningRequestParams::from_pem(csr)
        .map_err(|error| format!("csr is no request for a certificate (PKCS #10, PEM): {error}"))?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err("csr has another kind of key; allowed: ECDSA on P-256 with SHA-256".to_owned());
    }
    Ok(request.public_key)
}

impl Authorities {
    /// The first one.
    ///
    /// # Errors
    /// See [`Signer::make`].
    pub fn begin(now: Timestamp, life: Duration) -> Result<Self, String> {
        Ok(Self { current: Signer::make(now, life)?, next: None, old: None })
    }

    /// The first one after the Secret is gone, with what was held of it: what those have signed is still taken, until
    /// it has expired, for who has it can't know yet.
    ///
    /// # Errors
    /// See [`Signer::make`].
    pub fn begin_after(held: Option<&Self>, now: Timestamp, life: Duration) -> Result<Self, String> {
        let held = held.map(|held| &held.current).filter(|signer| signer.span.expires > now);
        let old = held.map(|signer| (signer.certificate.clone(), now));
        Ok(Self { old, ..Self::begin(now, life)? })
    }

    /// Without the keys.
    pub fn known(&self) -> Known {
        Known {
            current: self.current.span,
            next: self.next.as_ref().map(|(signer, published)| (signer.span, *published)),
            old: self.old.as_ref().map(|(_, replaced)| *replaced),
        }
    }

    /// What clients are told: all whose signatures they may meet.
    pub fn bundle(&self) -> String {
        let next = self.next.iter().map(|(signer, _)| &signer.certificate);
        let old = self.old.iter().map(|(certificate, _)| certificate);
        let all = std::iter::once(&self.current.certificate).chain(next).chain(old);
        all.map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// Takes a step.
    ///
    /// # Errors
    /// See [`Signer::make`].
    pub fn step(&self, step: Step, now: Timestamp, life: Duration) -> Result<Self, String> {
        let mut after = self.clone();
        match step {
            Step::Stand(_) => {}
            Step::Begin => after = Self::begin(now, life)?,
            Step::MakeNext => after.next = Some((Signer::make(now, life)?, None)),
            Step::ForgetOld => after.old = None,
            Step::Promote => {
                if let Some((next, _)) = after.next.take() {
                    let old = std::mem::replace(&mut after.current, next);
                    after.old = Some((old.certificate, now));
                }
            }
        }
        Ok(after)
    }

    /// All bundles hold the next one now.
    pub fn published(&self, now: Timestamp) -> Self {
        let mut after = self.clone();
        if let Some((_, published)) = &mut after.next {
            published.get_or_insert(now);
        }
        after
    }

    /// As the Secret holds it: data and annotations.
    pub fn write(&self) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, String>) {
        let (mut data, mut annotations) = (BTreeMap::new(), BTreeMap::new());
        let mut put = |key: &str, value: &str| data.insert(key.to_owned(), value.as_bytes().to_vec());
        put("tls.crt", &self.current.certificate);
        put("tls.key", &self.current.key);
        if let Some((next, published)) = &self.next {
            put("next.crt", &next.certificate);
            put("next.key", &next.key);
            annotations.extend(published.map(|time| (PUBLISHED.to_owned(), time.to_string())));
        }
        if let Some((old, replaced)) = &self.old {
            put("old.crt", old);
            annotations.insert(REPLACED.to_owned(), replaced.to_string());
        }
        (data, annotations)
    }

    /// What the Secret holds.
    ///
    /// # Errors
    /// In words: what is missing or damaged.
    pub fn read(
        data: &BTreeMap<String, Vec<u8>>,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let text = |key: &str| -> Result<Option<String>, String> {
            let bytes = data.get(key).filter(|bytes| !bytes.is_empty());
            let text = bytes.map(|bytes| String::from_utf8(bytes.clone()));
            text.transpose().map_err(|_| format!("{key} is no text"))
        };
        let signer = |name: &str| -> Result<Option<Signer>, String> {
            match (text(&format!("{name}.crt"))?, text(&format!("{name}.key"))?) {
                (Some(certificate), Some(key)) => Signer::read(certificate, key, name).map(Some),
                (None, None) => Ok(None),
                _ => Err(format!("{name}.crt and {name}.key belong together; one is missing")),
            }
        };
        let time = |name: &str| annotations.get(name).and_then(|text| text.parse::<Timestamp>().ok());
        let current = signer("tls")?.ok_or("tls.crt and tls.key are missing")?;
        let next = signer("next")?.map(|next| (next, time(PUBLISHED)));
        let old = text("old.crt")?.map(|old| span(&old).map(|_| old)).transpose();
        let old = old.map_err(|why| format!("old.crt: {why}"))?;
        // An old one without a time: kept as if it had been replaced when the current one was made, or later.
        let old = old.map(|old| (old, time(REPLACED).unwrap_or(current.span.made)));
        Ok(Self { current, next, old })
    }
}

fn held(from: Timestamp, until: Timestamp) -> CertificateParams {
    let time = |time: Timestamp| {
        // Four-digit years: 253 402 300 799 is the last second of 9999.
        let seconds = u64::try_from(time.as_second()).unwrap_or(0).min(253_402_300_799);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = time(from) - BACKDATE;
    params.not_after = time(until);
    params
}

fn parsed<T>(
    pem: &str,
    look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> Option<T>,
) -> Result<T, String> {
    let certificates = outrigger_table::tls::certificates(pem.as_bytes())?;
    let first = certificates.first().ok_or("holds no certificate")?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(first).map_err(|error| format!("can't be read: {error}"))?;
    look(&certificate).ok_or_else(|| "can't be read".to_owned())
}

fn span(pem: &str) -> Result<Span, String> {
    parsed(pem, |certificate| {
        let validity = certificate.validity();
        let made = Timestamp::from_second(validity.not_before.timestamp()).ok()?;
        let expires = Timestamp::from_second(validity.not_after.timestamp()).ok()?;
        Some(Span { made: after(made, BACKDATE).min(expires), expires })
    })
}

fn public_key(pem: &str) -> Result<Vec<u8>, String> {
    parsed(pem, |certificate| Some(certificate.public_key().raw.to_vec()))
}

#[cfg(test)]
mod tests;
