//! What is signed, and what a Secret that somebody edited says.

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

const LIFE: Duration = Duration::from_secs(1_000);

#[test]
fn nothing_that_is_signed_outlives_its_signer() {
    let authority = Signer::make(at(0), LIFE).unwrap();
    let key = KeyPair::generate().unwrap();
    let subject = Subject::Client(Identity::Endpoint("x".into()));
    let sign = |now, life| authority.sign(&subject, &key, now, Duration::from_secs(life)).unwrap().expires;
    assert_eq!(sign(at(0), 100), at(100));
    assert_eq!(sign(at(950), 100), at(1_000));
    let signed = authority.sign(&subject, &key, at(0), LIFE).unwrap();
    assert_eq!(span(&signed.certificate).unwrap(), Span { made: at(0), expires: at(1_000) });
}

#[test]
fn a_name_that_could_be_read_as_another_is_not_signed() {
    let authority = Signer::make(at(0), LIFE).unwrap();
    let key = KeyPair::generate().unwrap();
    let subject = Subject::Client(Identity::Gateway("a/../operator/b".into()));
    let why = authority.sign(&subject, &key, at(0), LIFE).unwrap_err();
    assert!(why.contains("of a gateway is none"), "{why}");
}

/// Whatever a request asks for, only its key counts, and only P-256.
#[test]
fn a_request_brings_a_key_and_nothing_else() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params =
        CertificateParams::new(vec!["outrigger-operator.outrigger-system.svc".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let public = requested_key(&csr).unwrap();
    let authority = Signer::make(at(0), LIFE).unwrap();
    let subject = Subject::Client(Identity::Endpoint("x".into()));
    let signed = authority.sign(&subject, &public, at(0), LIFE).unwrap().certificate;
    let names = parsed(&signed, |certificate| {
        let names = certificate.subject_alternative_name().ok()??.value.general_names.clone();
        Some((format!("{names:?}"), certificate.is_ca()))
    });
    assert_eq!(names.unwrap(), ("[URI(\"outrigger://endpoint/x\")]".to_owned(), false));

    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
    assert!(requested_key(&csr).unwrap_err().contains("P-256"));
    for text in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        assert!(requested_key(text).unwrap_err().contains("no request for a certificate"));
    }
    // Signed by another key than the one that it brings.
    let stolen = csr_with_a_changed_signature();
    assert!(requested_key(&stolen).is_err());
}

fn csr_with_a_changed_signature() -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let mut der = request.der().to_vec();
    *der.last_mut().unwrap() ^= 1;
    let pem = request.pem().unwrap();
    let whole = rustls::pki_types::CertificateSigningRequestDer::from(der);
    // The PEM of other bytes: written by the same library, from a key that never signed them.
    let encoded = k8s_openapi::ByteString(whole.to_vec());
    let base64 = serde_json::to_string(&encoded).unwrap();
    let lines: Vec<&str> = pem.lines().collect();
    format!("{}\n{}\n{}\n", lines[0], base64.trim_matches('"'), lines[lines.len() - 1])
}

#[test]
fn a_damaged_secret_says_what_is_wrong() {
    let (data, none) = Authorities::begin(at(0), LIFE).unwrap().write();
    let other = Authorities::begin(at(0), LIFE).unwrap().write().0;
    let without = |key: &str| {
        let mut data = data.clone();
        data.remove(key);
        data
    };
    let with = |key: &str, value: &[u8]| {
        let mut data = data.clone();
        data.insert(key.to_owned(), value.to_vec());
        data
    };
    for (data, words) in [
        (without("tls.key"), "tls.crt and tls.key belong together; one is missing"),
        (BTreeMap::new(), "tls.crt and tls.key are missing"),
        (with("tls.key", &other["tls.key"]), "tls.key is not the key of tls.crt"),
        (with("tls.key", b"x"), "tls.key is no key"),
        (with("tls.crt", b"x"), "tls.crt: it holds no certificate"),
        (with("tls.crt", &[0xff]), "tls.crt is no text"),
        (with("next.crt", &other["tls.crt"]), "next.crt and next.key belong together"),
        (with("old.crt", b"x"), "old.crt: it holds no certificate"),
    ] {
        let why = Authorities::read(&data, &none).unwrap_err();
        assert!(why.starts_with(words), "{why}");
    }
    let debug = format!("{:?}", Authorities::read(&data, &none).unwrap());
    assert!(!debug.contains("PRIVATE"), "{debug}");
}
