//! From a label to a request over mutual TLS: pods as the webhook makes them, whose sidecars run with the
//! very configuration that it wrote, known to the CA by their accounts, finding each other by the API.
//! Only what a kubelet and a network would do is done by the test: files at their places, ports that
//! are free.

use selvedge_tests::admission::{applied, review};
use selvedge_tests::cluster::{ready_pod, service, slice};
use selvedge_tests::control_plane::{AUDIENCE, Cluster, until};
use selvedge_tests::kube::Token;
use selvedge_tests::process::Selvedge;
use selvedge_tests::{Raw, Upstream};
use serde_json::{Value, json};

/// A pod of this application as the webhook makes it.
fn injected(cluster: &Cluster, app: &str) -> Value {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("{app}-1"), "namespace": "shop", "labels": { "app": app } },
        "spec": {
            "serviceAccountName": app,
            "containers": [{ "name": app, "image": "app:1" }],
        },
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (status, answer) = runtime.unwrap().block_on(async {
        let question = review("shop", &pod).to_string();
        cluster.caller().ask("/inject/namespace", question).await
    });
    assert_eq!(status, 200);
    let (_, pod) = applied(&pod, &answer);
    cluster.api.put(pod)
}

/// The sidecar of a pod, with its application at this address.
fn run(cluster: &Cluster, pod: &Value, app: &str, address: &str) -> Selvedge {
    let text = pod["metadata"]["annotations"]["selvedge.dev/config"].as_str();
    let mut config: Value = serde_json::from_str(text.unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // What the kubelet projects: a token for the CA, another for the API, both of the pod's account.
    let account = Token::of_account("shop", app).of_pod(&format!("{app}-1"), "uid");
    for (file, secret, token) in [
        ("ca-token", "ca", account.clone().for_audiences(&[AUDIENCE])),
        ("token", "api", account.clone()),
    ] {
        let secret = format!("{secret}.{app}.token");
        std::fs::write(dir.path().join(file), &secret).unwrap();
        cluster.api.add_token(&secret, token);
    }
    std::fs::write(dir.path().join("namespace"), "shop").unwrap();
    std::fs::copy(cluster.api.ca(), dir.path().join("ca.crt")).unwrap();
    std::fs::copy(cluster.api.dir().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
    // As the chart allows every service account.
    for resource in ["services", "pods", "endpointslices"] {
        for verb in ["get", "list", "watch"] {
            cluster.api.allow(&account.user, verb, resource);
        }
    }
    let place = |name: &str| json!(dir.path().join(name).display().to_string());
    for (part, key, file, want) in [
        (
            "identity",
            "token",
            "ca-token",
            "/var/run/secrets/selvedge/token",
        ),
        (
            "identity",
            "bundle",
            "ca.pem",
            "/var/run/selvedge/trust/ca.pem",
        ),
        (
            "kubernetes",
            "token",
            "token",
            "/var/run/secrets/selvedge-api/token",
        ),
        (
            "kubernetes",
            "ca",
            "ca.crt",
            "/var/run/secrets/selvedge-api/ca.crt",
        ),
    ] {
        assert_eq!(config[part][key], want);
        config[part][key] = place(file);
    }
    config["kubernetes"]["server"] = json!(cluster.api.url());
    // Without rules of the kernel nothing says where a connection was going.
    assert_eq!(config["inbound"][0]["transparent"], true);
    assert_eq!(config["outbound"]["transparent"], true);
    config["inbound"] =
        json!([{ "port": 0, "bind": "127.0.0.1", "app": address, "mtls": "strict" }]);
    config["outbound"] = json!({ "bind": "127.0.0.1:0" });
    config["admin"] = json!({ "bind": "127.0.0.1:0", "health": "127.0.0.1:0" });
    let mut text = config.to_string();
    text.push('\n');
    let file = dir.path().join("sidecar.json");
    std::fs::write(&file, text).unwrap();
    let mut command = std::process::Command::new(selvedge_tests::process::binary());
    command.arg("sidecar").arg("--config").arg(file);
    let sidecar = Selvedge::spawn(command, dir, &["inbound-0", "outbound", "health"]);
    until("ready", || {
        (sidecar.get("health", "/ready").0 == 200).then_some(())
    });
    sidecar
}

#[test]
fn labelled_pods_call_each_other_over_mutual_tls() {
    let cluster = Cluster::start();
    let (web_pod, orders_pod) = (injected(&cluster, "web"), injected(&cluster, "orders"));
    let app = Upstream::answering("orders here");
    let web = run(&cluster, &web_pod, "web", "127.0.0.1:9");
    let orders = run(&cluster, &orders_pod, "orders", &app.address().to_string());
    let port = orders.address("inbound-0").port();
    let service = cluster.api.put(service("shop", "orders", &[("http", 80)]));
    cluster.api.put(slice(
        &service,
        "a",
        port,
        &[ready_pod("127.0.0.1", &orders_pod)],
    ));
    // The strict sidecar of `orders` lets in whoever has a certificate of the mesh, and `web` has one by
    // its account. Nothing of this was configured.
    for host in ["orders", "orders.shop", "orders.shop.svc.cluster.local"] {
        let mut raw = Raw::connect(web.address("outbound"));
        raw.send(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ));
        let reply = raw.reply();
        assert_eq!(reply.status, 200, "{host}: {reply:?}\n{:?}", web.log());
        assert_eq!(reply.body, b"orders here");
    }
    // Who has none is kept out.
    let mut raw = Raw::connect(orders.address("inbound-0"));
    raw.send("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n");
    assert!(!raw.rest().starts_with(b"HTTP/1.1 200"));
    // And the application has been told nothing of it that it did not hear over the mesh.
    assert_eq!(app.all().matches("GET / HTTP/1.1").count(), 3);
}
