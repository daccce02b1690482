//! The test API server, asked by a client that real clusters are asked by.

use http::Request;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, Error};
use selvedge_tests::kube::KubeApi;
use serde_json::{Value, json};

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

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "key": value } }))
        .unwrap()
}

fn service(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop", "labels": labels },
        "spec": { "ports": [{ "port": 80 }], "selector": { "app": name } },
    })
}

#[tokio::test]
async fn objects_are_made_read_changed_and_removed() {
    let api = KubeApi::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(&api), "default");
    let post = PostParams::default();
    let made = maps.create(&post, &config_map("a", "1")).await.unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let again = refusal(maps.create(&post, &config_map("a", "1")).await);
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));
    let mut newer = made.clone();
    newer.data = Some([("key".to_owned(), "2".to_owned())].into());
    let written = maps.replace("a", &post, &newer).await.unwrap();
    assert_ne!(
        written.metadata.resource_version,
        made.metadata.resource_version
    );
    // The same once more changes nothing, and what was read before is stale.
    let same = maps.replace("a", &post, &written).await.unwrap();
    assert_eq!(
        same.metadata.resource_version,
        written.metadata.resource_version
    );
    let stale = refusal(maps.replace("a", &post, &made).await);
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    let merge = Patch::Merge(json!({ "data": { "other": "3", "key": null } }));
    let merged = maps
        .patch("a", &PatchParams::default(), &merge)
        .await
        .unwrap();
    assert_eq!(
        merged.data.unwrap().into_iter().collect::<Vec<_>>(),
        [("other".to_owned(), "3".to_owned())]
    );
    let patch: json_patch::Patch =
        serde_json::from_value(json!([{ "op": "add", "path": "/data/x", "value": "y" }])).unwrap();
    let patched = maps
        .patch("a", &PatchParams::default(), &Patch::Json::<()>(patch))
        .await
        .unwrap();
    assert_eq!(patched.data.unwrap()["x"], "y");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let gone = refusal(maps.get("a").await);
    assert_eq!((gone.code, gone.reason.as_str()), (404, "NotFound"));
    assert_eq!(api.requests("create", "configmaps"), 2);
    assert_eq!(api.requests("update", "configmaps"), 3);
}

/// Method, path, media type, body, status.
const CASES: &[(&str, &str, &str, &str, u16)] = &[
    ("POST", MAPS, JSON, MAP, 200),
    ("POST", MAPS, "text/plain", MAP, 415),
    ("POST", MAPS, JSON, "{", 400),
    (
        "POST",
        MAPS,
        JSON,
        r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b"}}"#,
        400,
    ),
    (
        "POST",
        MAPS,
        JSON,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#,
        422,
    ),
    (
        "POST",
        MAPS,
        JSON,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"No_Name"}}"#,
        422,
    ),
    (
        "POST",
        MAPS,
        JSON,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","namespace":"other"}}"#,
        400,
    ),
    ("POST", "/api/v1/namespaces/none/configmaps", JSON, MAP, 404),
    (
        "PUT",
        "/api/v1/namespaces/default/configmaps/b",
        JSON,
        MAP,
        400,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        "{}",
        415,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        "application/apply-patch+yaml",
        MAP,
        422,
    ),
    ("GET", "/api/v1/namespaces/default/gadgets", JSON, "", 404),
    (
        "GET",
        "/api/v1/namespaces/default/configmaps?labelSelector=a%20in%20b",
        JSON,
        "",
        400,
    ),
    (
        "GET",
        "/api/v1/services?fieldSelector=spec.none%3Da",
        JSON,
        "",
        400,
    ),
    (
        "GET",
        "/api/v1/services?fieldSelector=spec.clusterIP%3Da",
        JSON,
        "",
        200,
    ),
    (
        "GET",
        "/api/v1/services?resourceVersion=999999",
        JSON,
        "",
        504,
    ),
    ("DELETE", MAPS, JSON, "", 405),
    ("GET", "/apis/coordination.k8s.io/v1/leases", JSON, "", 200),
    ("GET", "/apis/coordination.k8s.io/v2/leases", JSON, "", 404),
];
const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;

#[tokio::test]
async fn what_a_real_server_refuses_is_refused() {
    let api = KubeApi::start();
    let client = client(&api);
    let ask = async |method: &str, path: &str, media: &str, body: &str| -> u16 {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media);
        let result = client
            .request::<Value>(request.body(body.as_bytes().to_vec()).unwrap())
            .await;
        match result {
            Ok(_) => 200,
            Err(Error::Api(status)) => status.code,
            Err(other) => panic!("{method} {path}: {other}"),
        }
    };
    for (method, path, media, body, status) in CASES {
        assert_eq!(
            ask(method, path, media, body).await,
            *status,
            "{method} {path} {body}"
        );
    }
}

#[tokio::test]
async fn fields_have_owners() {
    let api = KubeApi::start();
    let hook = |name: &str| {
        json!({
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": { "url": "https://a.example" },
        })
    };
    api.put(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": "hooks" }, "webhooks": [hook("a.b.c"), hook("d.e.f")],
    }));
    let hooks: Api<k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration> =
        Api::all(client(&api));
    let apply = async |manager: &str, force: bool, webhook: Value| {
        let mut params = PatchParams::apply(manager);
        params.force = force;
        let change = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "hooks" }, "webhooks": [webhook],
        });
        hooks.patch("hooks", &params, &Patch::Apply(change)).await
    };
    let bundle = |bytes: &str| json!({ "name": "a.b.c", "clientConfig": { "caBundle": bytes } });
    apply("one", false, bundle("YQ==")).await.unwrap();
    let stored = || {
        api.find("mutatingwebhookconfigurations", "", "hooks")
            .unwrap()
    };
    assert_eq!(
        stored()["webhooks"][0]["clientConfig"],
        json!({ "url": "https://a.example", "caBundle": "YQ==" })
    );
    assert_eq!(stored()["webhooks"][1], hook("d.e.f"));
    let conflict = refusal(apply("two", false, bundle("Yg==")).await);
    assert_eq!((conflict.code, conflict.reason.as_str()), (409, "Conflict"));
    let field = &conflict.details.as_ref().unwrap().causes[0].field;
    assert_eq!(field, r#".webhooks[name="a.b.c"].clientConfig.caBundle"#);
    // The same value is nobody's harm; by force the other loses the field.
    apply("two", false, bundle("YQ==")).await.unwrap();
    apply("two", true, bundle("Yg==")).await.unwrap();
    apply("two", false, bundle("Yw==")).await.unwrap();
    // What it does not say any more goes, and what the test wrote stays.
    apply("two", false, json!({ "name": "a.b.c" }))
        .await
        .unwrap();
    assert_eq!(
        stored()["webhooks"][0]["clientConfig"],
        json!({ "url": "https://a.example" })
    );
    let version = stored()["metadata"]["resourceVersion"].clone();
    apply("two", false, json!({ "name": "a.b.c" }))
        .await
        .unwrap();
    assert_eq!(stored()["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn a_lease_is_taken_by_one() {
    let api = KubeApi::start();
    let leases: Api<Lease> = Api::namespaced(client(&api), "default");
    let lease = |who: &str| -> Lease {
        serde_json::from_value(json!({
            "metadata": { "name": "leader" },
            "spec": { "holderIdentity": who, "leaseDurationSeconds": 15 },
        }))
        .unwrap()
    };
    let made = leases
        .create(&PostParams::default(), &lease("a"))
        .await
        .unwrap();
    let mut takes = lease("b");
    takes.metadata.resource_version = made.metadata.resource_version.clone();
    let mut late = lease("c");
    late.metadata.resource_version = made.metadata.resource_version;
    leases
        .replace("leader", &PostParams::default(), &takes)
        .await
        .unwrap();
    assert_eq!(
        refusal(
            leases
                .replace("leader", &PostParams::default(), &late)
                .await
        )
        .code,
        409
    );
}

#[tokio::test]
async fn status_is_written_apart() {
    let api = KubeApi::start();
    api.put(service("x", &json!({})));
    let services: Api<Service> = Api::namespaced(client(&api), "shop");
    let both = json!({ "metadata": { "labels": { "a": "b" } }, "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } } });
    services
        .patch("x", &PatchParams::default(), &Patch::Merge(&both))
        .await
        .unwrap();
    let stored = || api.find("services", "shop", "x").unwrap();
    assert_eq!(stored()["metadata"]["labels"], json!({ "a": "b" }));
    assert_eq!(stored()["status"], Value::Null);
    let other = json!({ "metadata": { "labels": { "a": "c" } }, "status": both["status"] });
    services
        .patch_status("x", &PatchParams::default(), &Patch::Merge(&other))
        .await
        .unwrap();
    assert_eq!(stored()["metadata"]["labels"], json!({ "a": "b" }));
    assert_eq!(stored()["status"], both["status"]);
}
