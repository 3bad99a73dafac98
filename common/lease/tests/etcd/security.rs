//! TLS in both directions, and users with passwords.

use crate::support::{PATIENCE, connect, fleet, hold, job, next_value, options, put};
use pgconvoy_core::failure::{Classify as _, Retry};
use pgconvoy_lease::etcd::{EtcdIdentity, EtcdLogin};
use pgconvoy_lease::store::LeaseStore as _;
use pgconvoy_lease::testing::etcd::{EtcdCluster, Plan, ServerTls};
use pgconvoy_lease::{EtcdOptions, EtcdStore, FleetKeys, LeaseError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::time::timeout;

const PASSWORD: &str = "correct horse";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, for servers on this host and for clients.
    fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn identity(&self) -> Option<EtcdIdentity> {
        let (certificate, key) = self.sign();
        Some(EtcdIdentity { certificate_pem: certificate.into_bytes(), key_pem: key.into_bytes() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_both_sides_prove_who_they_are() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (certificate_pem, key_pem) = ours.sign();
    let tls = Some(ServerTls { ca_pem: ours.pem(), certificate_pem, key_pem });
    let cluster = EtcdCluster::start_as(Plan { nodes: 1, tls }).unwrap();
    let with = |ca: &Authority, identity| EtcdOptions {
        ca_pem: Some(ca.pem().into_bytes()),
        identity,
        ..options(cluster.endpoints())
    };
    let store = EtcdStore::connect(with(&ours, ours.identity())).await.unwrap();
    let mut watch = store.watch(&job().all_done()).await.unwrap();
    let lease = hold(&store, fleet().leader(Default::default())).await;
    store.keep_alive(lease).await.unwrap();
    put(&store, job().done(0), "secret").await.unwrap();
    assert_eq!(next_value(&mut watch).await, "secret");
    let strangers = [
        ("a server of another CA", with(&theirs, ours.identity())),
        ("a client of another CA", with(&ours, theirs.identity())),
        ("a client without certificate", with(&ours, None)),
    ];
    for (who, options) in strangers {
        let outcome = timeout(PATIENCE, EtcdStore::connect(options)).await.unwrap();
        let error = outcome.err().unwrap_or_else(|| panic!("{who} was let in"));
        assert!(matches!(error, LeaseError::Unavailable { .. }), "{who}: {error}");
        let text = error.to_string().to_lowercase();
        assert!(
            ["certificate", "unknownissuer", "closed", "broken"].iter().any(|word| text.contains(word)),
            "{text}"
        );
    }
    let plain = cluster.endpoints()[0].replace("https", "http");
    assert!(EtcdStore::connect(options(vec![plain])).await.is_err());
}

fn as_user(cluster: &EtcdCluster, user: &str, password: &str) -> EtcdOptions {
    let login = Some(EtcdLogin { user: user.to_owned(), password: password.to_owned() });
    EtcdOptions { login, ..options(cluster.endpoints()) }
}

/// Makes a user that may do everything in the fleet and nothing elsewhere, and demands logins from now on.
async fn enable_logins(cluster: &EtcdCluster) {
    let mut client = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    client.user_add("root", "root's", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("pgconvoy", PASSWORD, None).await.unwrap();
    client.role_add("fleet").await.unwrap();
    let prefix = fleet().all();
    let all = etcd_client::Permission::read_write(prefix.as_str()).with_prefix();
    client.role_grant_permission("fleet", all).await.unwrap();
    client.user_grant_role("pgconvoy", "fleet").await.unwrap();
    client.auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_password_opens_and_only_what_the_role_allows() {
    let cluster = EtcdCluster::start(1).unwrap();
    enable_logins(&cluster).await;
    let denied = [
        ("a wrong password", as_user(&cluster, "pgconvoy", "wrong")),
        ("an unknown user", as_user(&cluster, "nobody", PASSWORD)),
        ("no login", options(cluster.endpoints())),
    ];
    for (who, options) in denied {
        let error = EtcdStore::connect(options).await.err().unwrap_or_else(|| panic!("{who} was let in"));
        assert!(matches!(error, LeaseError::Denied { .. }), "{who}: {error}");
        assert!(error.retry() == Retry::IsFutile && !error.hints().is_empty());
    }
    let store = EtcdStore::connect(as_user(&cluster, "pgconvoy", PASSWORD)).await.unwrap();
    let mut watch = store.watch(&job().all_done()).await.unwrap();
    put(&store, job().done(0), "mine").await.unwrap();
    assert_eq!(next_value(&mut watch).await, "mine");
    let other = FleetKeys::new("green").unwrap();
    let spec = other.job("1").unwrap().spec();
    assert!(matches!(put(&store, spec.clone(), "theirs").await, Err(LeaseError::Denied { .. })));
    assert!(matches!(store.get(&spec).await, Err(LeaseError::Denied { .. })));
    assert!(matches!(store.watch(&other.all()).await, Err(LeaseError::Denied { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_a_restart_dropped_is_renewed_unseen() {
    let mut cluster = EtcdCluster::start(1).unwrap();
    enable_logins(&cluster).await;
    let store = EtcdStore::connect(as_user(&cluster, "pgconvoy", PASSWORD)).await.unwrap();
    let lease = hold(&store, fleet().leader(Default::default())).await;
    let mut watch = store.watch(&job().all_done()).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    for round in 0..2 {
        cluster.kill(0).unwrap();
        cluster.restart(0).unwrap();
        // The first call only finds the old connection closed.
        crate::support::until_answered(async || store.get(&job().spec()).await).await;
        put(&store, job().done(0), round).await.unwrap();
        store.keep_alive(lease).await.unwrap();
        assert_eq!(next_value(&mut watch).await, round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_logins_at_the_server_a_login_is_denied() {
    let cluster = EtcdCluster::start(1).unwrap();
    let outcome = EtcdStore::connect(as_user(&cluster, "pgconvoy", PASSWORD)).await;
    assert!(matches!(outcome.err(), Some(LeaseError::Denied { .. })));
    connect(cluster.endpoints()).await;
}
