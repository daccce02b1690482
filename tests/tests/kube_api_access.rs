//! The test API server: who may ask, and by which protocol.

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Config, Error};
use selvedge_tests::kube::{API_AUDIENCE, KubeApi, Token, USER};
use serde_json::json;

fn client_of(api: &KubeApi, token: &str) -> Client {
    let mut config = Config::new(api.url().parse().unwrap());
    config.root_cert_file = Some(api.ca());
    config.default_retry = false;
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).unwrap()
}

fn client(api: &KubeApi) -> Client {
    client_of(api, "token-of-selvedge")
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Box<kube::core::Status> {
    match result {
        Err(Error::Api(status)) => status,
        other => panic!("no refusal: {other:?}"),
    }
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let api = KubeApi::start();
    let pods = |client| Api::<Pod>::namespaced(client, "default");
    assert_eq!(
        refusal(
            pods(client_of(&api, "stranger"))
                .list(&ListParams::default())
                .await
        )
        .code,
        401
    );
    api.add_token("reader", Token::of_account("shop", "reader"));
    let reader = "system:serviceaccount:shop:reader";
    let forbidden = refusal(
        pods(client_of(&api, "reader"))
            .list(&ListParams::default())
            .await,
    );
    assert_eq!(
        (forbidden.code, forbidden.reason.as_str()),
        (403, "Forbidden")
    );
    api.allow(reader, "list", "pods");
    pods(client_of(&api, "reader"))
        .list(&ListParams::default())
        .await
        .unwrap();
    // A token for somebody else is none for the API.
    api.add_token(
        "elsewhere",
        Token::of_account("shop", "reader").for_audiences(&["vault"]),
    );
    assert_eq!(
        refusal(
            pods(client_of(&api, "elsewhere"))
                .list(&ListParams::default())
                .await
        )
        .code,
        401
    );
    api.forbid(USER, "list", "pods");
    assert_eq!(
        refusal(pods(client(&api)).list(&ListParams::default()).await).code,
        403
    );
    let may = async |verb: &str| {
        let review: SelfSubjectAccessReview = serde_json::from_value(json!({
            "metadata": {}, "spec": { "resourceAttributes": { "verb": verb, "resource": "pods" } },
        }))
        .unwrap();
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client_of(&api, "reader"));
        reviews
            .create(&PostParams::default(), &review)
            .await
            .unwrap()
            .status
            .unwrap()
            .allowed
    };
    assert!(may("list").await);
    assert!(!may("watch").await);
}

#[tokio::test]
async fn tokens_are_reviewed_by_audience() {
    let api = KubeApi::start();
    let token = Token::of_account("shop", "orders")
        .for_audiences(&["ca", API_AUDIENCE])
        .of_pod("orders-1", "uid-1");
    api.add_token("secret", token);
    let reviews: Api<TokenReview> = Api::all(client(&api));
    let review = async |token: &str, audiences: &[&str]| {
        let review = serde_json::from_value(
            json!({ "metadata": {}, "spec": { "token": token, "audiences": audiences } }),
        );
        let post = PostParams::default();
        reviews
            .create(&post, &review.unwrap())
            .await
            .unwrap()
            .status
            .unwrap()
    };
    let known = review("secret", &["ca", "vault"]).await;
    assert_eq!(known.authenticated, Some(true));
    assert_eq!(known.audiences, Some(vec!["ca".to_owned()]));
    let user = known.user.unwrap();
    assert_eq!(
        user.username.as_deref(),
        Some("system:serviceaccount:shop:orders")
    );
    assert_eq!(
        user.extra.unwrap()["authentication.kubernetes.io/pod-uid"],
        ["uid-1"]
    );
    assert_eq!(
        review("secret", &[]).await.audiences,
        Some(vec![API_AUDIENCE.to_owned()])
    );
    for (token, audience) in [("secret", "vault"), ("guess", "ca")] {
        let unknown = review(token, &[audience]).await;
        assert_ne!(unknown.authenticated, Some(true));
        assert!(unknown.error.is_some() && unknown.audiences.is_none());
    }
}

#[tokio::test]
async fn http1_is_spoken_too() {
    let api = KubeApi::start();
    let mut config = rustls_config(&api);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let tcp = tokio::net::TcpStream::connect(api.address()).await.unwrap();
    let name = rustls_pki_types::ServerName::from(api.address().ip());
    let mut tls = connector.connect(name, tcp).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let request = "GET /api/v1/namespaces/default HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token-of-selvedge\r\nconnection: close\r\n\r\n";
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("\"kubernetes.io/metadata.name\":\"default\""),
        "{answer}"
    );
}

fn rustls_config(api: &KubeApi) -> rustls::ClientConfig {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls_pki_types::CertificateDer::from_pem_file(api.ca()).unwrap();
    roots.add(ca).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}
