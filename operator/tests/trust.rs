//! What a replica holds in memory, over real sockets: certificates for tokens, own certificates that are renewed and
//! authorities that follow each other while streams live.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use jiff::{SignedDuration, Timestamp};
use outrigger_operator::trust::Registrar;
use outrigger_operator::trust::authority::Authorities;
use outrigger_operator::trust::review::{Reviewer, Reviewing};
use outrigger_operator::trust::ring::{Me, Ring};
use outrigger_operator::trust::rotation::{Step, Times};
use outrigger_table::{
    Authority, Client, ClientConfig, ClientTls, Door, Forwarder, Identity, Refused, Server, Table,
};
use outrigger_wire::stream::{IdentityRequest, Report};
use outrigger_wire::{EndpointId, GatewayReport, Subscription};
use rustls::pki_types::ServerName;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Knows tokens such as `gateway/NAME`; what API servers say is `review`'s own tests' matter.
struct ByName;

impl Reviewer for ByName {
    fn review(&self, token: String) -> Reviewing<'_> {
        let identity = Identity::from_uri(&format!("outrigger://{token}"));
        Box::pin(async move { identity.ok_or_else(|| Refused::Token("the token has expired".to_owned())) })
    }
}

fn times() -> Times {
    Times { serving: Duration::from_secs(3_600), ..Times::default() }
}

fn ring(authorities: Authorities, pod: &str) -> Arc<Ring> {
    ring_of(authorities, pod, Timestamp::now())
}

fn ring_of(authorities: Authorities, pod: &str, now: Timestamp) -> Arc<Ring> {
    let me = Me {
        service: "outrigger-operator".to_owned(),
        namespace: "outrigger-system".to_owned(),
        pod: pod.to_owned(),
        address: Some([127, 0, 0, 1].into()),
    };
    Arc::new(Ring::new(me, times(), authorities, now).unwrap())
}

async fn serve(server: &Server, ring: &Arc<Ring>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let is_replica = Arc::new(|uid: &EndpointId| uid.as_str() == "replica");
    let registrar = Registrar::new(Arc::clone(ring), Arc::new(ByName), is_replica);
    let door = Door::new(ring.table(), Arc::new(registrar));
    let server = server.clone();
    tokio::spawn(async move { server.serve_tls(listener, door).await });
    address
}

fn gateway(folder: &Path, bundle: &str, address: &str) -> ClientConfig {
    let tls = ClientTls { ca: folder.join("ca.crt"), token: folder.join("token") };
    std::fs::write(&tls.ca, bundle).unwrap();
    std::fs::write(&tls.token, "gateway/g").unwrap();
    ClientConfig {
        servers: vec![address.to_owned()],
        subscription: Subscription::Gateway("g".into()),
        state_dir: None,
        tls: Some(tls),
    }
}

async fn until_live(table: &mut watch::Receiver<Arc<Table>>, who: &str) {
    let live = tokio::time::timeout(Duration::from_secs(30), table.wait_for(|table| table.live)).await;
    live.unwrap_or_else(|_| panic!("never live: {who}")).unwrap();
    table.mark_unchanged();
}

/// The certificate that a server shows to somebody who trusts this bundle.
async fn shown(address: &str, bundle: &str, name: &str) -> Result<Vec<u8>, std::io::Error> {
    let config = outrigger_table::tls::client_config(bundle.as_bytes(), None).unwrap();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let socket = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    let chain = socket.get_ref().1.peer_certificates().unwrap();
    Ok(chain.first().unwrap().to_vec())
}

/// Each step of a rotation, with a stream that lives through all of them and newcomers at each.
///
/// proves O.9
#[tokio::test]
async fn authorities_follow_each_other_under_a_live_stream() {
    let life = Duration::from_secs(24 * 3_600);
    let now = Timestamp::now();
    let mut authorities = Authorities::begin(now, life).unwrap();
    let ring = ring(authorities.clone(), "operator-0");
    let (server, _reports) = Server::new();
    server.complete();
    let address = serve(&server, &ring).await;
    let folder = tempfile::tempdir().unwrap();
    let client = Client::start(gateway(folder.path(), &authorities.bundle(), &address));
    let mut table = client.table();
    until_live(&mut table, "the first").await;
    let mut newcomers = Vec::new();
    for step in [Step::MakeNext, Step::Promote, Step::ForgetOld] {
        let told_before = authorities.bundle();
        authorities = authorities.step(step, Timestamp::now(), life).unwrap().published(Timestamp::now());
        ring.take(authorities.clone(), Timestamp::now()).unwrap();
        // Who knows what was told before the step, and who knows what is told after it.
        for bundle in [told_before, authorities.bundle()] {
            let folder = tempfile::tempdir().unwrap();
            let newcomer = Client::start(gateway(folder.path(), &bundle, &address));
            until_live(&mut newcomer.table(), &format!("one after {step:?}")).await;
            newcomers.push((folder, newcomer));
        }
    }
    assert!(!table.has_changed().unwrap(), "the first stream lived through all of it");
}

/// A replica's own certificate is renewed after two thirds of its life, for all names by which it is called, under
/// servers and streams that run.
#[tokio::test]
async fn own_certificates_are_renewed_in_time() {
    // It was started forty minutes ago.
    let now = Timestamp::now() - SignedDuration::from_secs(2_420);
    let authorities = Authorities::begin(now, Duration::from_secs(24 * 3_600)).unwrap();
    let bundle = authorities.bundle();
    let ring = ring_of(authorities.clone(), "operator-0", now);
    let (server, _reports) = Server::new();
    server.complete();
    let address = serve(&server, &ring).await;
    let folder = tempfile::tempdir().unwrap();
    let client = Client::start(gateway(folder.path(), &bundle, &address));
    let mut table = client.table();
    until_live(&mut table, "the stream").await;
    let first = shown(&address, &bundle, "127.0.0.1").await.unwrap();
    let later = |seconds| now + SignedDuration::from_secs(seconds);
    let renew = ring.take(authorities.clone(), later(2_300)).unwrap();
    assert!((2_390..=2_410).contains(&now.duration_until(renew).as_secs()), "two thirds of an hour");
    assert_eq!(shown(&address, &bundle, "127.0.0.1").await.unwrap(), first);
    ring.take(authorities, later(2_420)).unwrap();
    for name in [
        "127.0.0.1",
        "outrigger-operator.outrigger-system.svc",
        "outrigger-operator.outrigger-system.svc.cluster.local",
    ] {
        assert_ne!(shown(&address, &bundle, name).await.unwrap(), first, "{name}");
    }
    shown(&address, &bundle, "outrigger-operator.another.svc").await.unwrap_err();
    assert!(!table.has_changed().unwrap(), "the stream lives");
}

/// The webhook's server shows the same certificate and asks for none; it changes with the authority.
#[tokio::test]
async fn the_webhooks_certificate_follows() {
    let life = Duration::from_secs(24 * 3_600);
    let before = Authorities::begin(Timestamp::now(), life).unwrap();
    let ring = ring(before.clone(), "operator-0");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = tokio_rustls::TlsAcceptor::from(ring.serving().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            acceptor.accept(socket).await.ok();
        }
    });
    let name = "outrigger-operator.outrigger-system.svc";
    shown(&address, &before.bundle(), name).await.unwrap();
    let after = Authorities::begin(Timestamp::now(), life).unwrap();
    ring.take(after.clone(), Timestamp::now()).unwrap();
    shown(&address, &before.bundle(), name).await.unwrap_err();
    shown(&address, &after.bundle(), name).await.unwrap();
}

/// Two replicas with the same Secret: what the one signed the other takes, and a follower hands on what it hears.
#[tokio::test]
async fn any_replica_takes_what_another_signed_and_a_follower_hands_on() {
    let authorities = Authorities::begin(Timestamp::now(), Duration::from_secs(24 * 3_600)).unwrap();
    let bundle = authorities.bundle();
    let (leads, follows) = (ring(authorities.clone(), "operator-0"), ring(authorities, "operator-1"));
    let (leader, mut leader_reports) = Server::new();
    let (follower, mut reports) = Server::new();
    leader.complete();
    follower.complete();
    let (leader_at, follower_at) = (serve(&leader, &leads).await, serve(&follower, &follows).await);
    let (_at, at) = watch::channel(Some(leader_at));
    let forwarder = Forwarder::start(at, follows.dialling());
    tokio::spawn(async move {
        while let Some(report) = reports.recv().await {
            forwarder.forward(report);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let client = Client::start(gateway(folder.path(), &bundle, &follower_at));
    until_live(&mut client.table(), "at the follower").await;
    let sent = GatewayReport { gateway: "g".into(), incarnation: 1, sequence: 1, ..Default::default() };
    client.report(Report::Gateway(Box::new(sent)));
    let heard = tokio::time::timeout(Duration::from_secs(20), leader_reports.recv()).await;
    assert!(matches!(heard.expect("it comes"), Some(Report::Gateway(report)) if report.sequence == 1));
    assert_eq!(leader.live_gateways(), ["g".into()]);
}

/// Any pod may have a token for our audience; only a replica's gets a certificate, and who may be new is told so.
///
/// proves O.8
#[tokio::test]
async fn a_pod_that_is_nobodys_replica_gets_no_certificate() {
    let authorities = Authorities::begin(Timestamp::now(), Duration::from_secs(24 * 3_600)).unwrap();
    let ring = ring(authorities, "operator-0");
    let is_replica = Arc::new(|uid: &EndpointId| uid.as_str() == "replica");
    let registrar = Registrar::new(Arc::clone(&ring), Arc::new(ByName), is_replica);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let asks = |token: &str| registrar.issue(IdentityRequest { token: token.to_owned(), csr: csr.clone() });
    asks("endpoint/replica").await.unwrap();
    asks("gateway/g").await.unwrap();
    let refused = asks("endpoint/stranger").await.unwrap_err();
    assert!(
        matches!(&refused, Refused::Unavailable(why) if why.ends_with("try again soon")),
        "a new replica's asks again: {refused}"
    );
}
