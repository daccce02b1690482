//! `selvedge injector` as an API server asks it: with the mesh's own CA, the CA's attestation of its
//! account, and an API server that is told by which roots to verify it.

use std::path::Path;

use selvedge_tests::admission::{Caller, applied, review};
use selvedge_tests::control_plane::{
    AUDIENCE, Cluster, OWN, bundle_of, injector, text_of, until, wait_ready,
};
use selvedge_tests::kube::Token;
use selvedge_tests::python::judge;
use serde_json::{Value, json};

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "web-", "labels": { "app": "web" } },
        "spec": { "containers": [{
            "name": "web", "image": "web:1",
            "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 } },
        }] },
    })
}

fn run<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

async fn ask(caller: &Caller, path: &str, question: &Value) -> Value {
    let (status, answer) = caller.ask(path, question.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["response"]["uid"], question["request"]["uid"]);
    answer
}

#[test]
fn pods_of_a_labelled_namespace_get_their_sidecar() {
    let cluster = Cluster::start();
    let caller = cluster.caller();
    run(async {
        let question = review("shop", &pod());
        let answer = ask(&caller, "/inject/namespace", &question).await;
        let (_, injected) = applied(&pod(), &answer);
        let names = |key: &str| -> Vec<String> {
            let list = injected["spec"][key].as_array().unwrap();
            list.iter()
                .map(|c| c["name"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            names("initContainers"),
            ["selvedge-redirect", "selvedge-proxy"]
        );
        assert_eq!(names("containers"), ["web"]);
        // The same pod again, as after another webhook: nothing more.
        let again = ask(&caller, "/inject/namespace", &review("shop", &injected)).await;
        assert_eq!(again["response"]["patch"], Value::Null);
        assert_eq!(again["response"]["allowed"], true);
        // A dry run is answered alike.
        let mut dry = question.clone();
        dry["request"]["dryRun"] = json!(true);
        assert_eq!(ask(&caller, "/inject/namespace", &dry).await, answer);
        // Who says no has none; who says yes has one wherever he is.
        let mut other = pod();
        other["metadata"]["labels"]["selvedge.dev/inject"] = json!("disabled");
        let left = ask(&caller, "/inject/namespace", &review("shop", &other)).await;
        assert_eq!(left["response"]["patch"], Value::Null);
        other["metadata"]["labels"]["selvedge.dev/inject"] = json!("enabled");
        let own = ask(&caller, "/inject/pod", &review("default", &other)).await;
        assert_eq!(own["response"]["patchType"], "JSONPatch");
        let none = ask(&caller, "/inject/pod", &review("default", &pod())).await;
        assert_eq!(none["response"]["patch"], Value::Null);
        let excluded = ask(&caller, "/inject/namespace", &review(OWN, &other)).await;
        assert_eq!(excluded["response"]["patch"], Value::Null);
    });
    let reviews = |outcome: &str, reason: &str| {
        let labels = [outcome, reason];
        cluster
            .injector
            .metric("selvedge_injector_reviews_total", &labels)
    };
    let near = |a: f64, b: f64| (a - b).abs() < 0.1;
    assert!(near(reviews("outcome=\"injected\"", ""), 3.0));
    assert!(near(reviews("outcome=\"unchanged\"", ""), 1.0));
    assert!(near(reviews("skipped", "reason=\"disabled_by_pod\""), 1.0));
    assert!(near(reviews("skipped", "reason=\"not_enabled\""), 1.0));
    assert!(near(
        reviews("skipped", "reason=\"excluded_namespace\""),
        1.0
    ));
}

#[test]
fn what_a_namespace_says_holds_as_soon_as_it_says_it() {
    let cluster = Cluster::start();
    let caller = cluster.caller();
    let log_of = |answer: &Value| -> Value {
        let (_, injected) = applied(&pod(), answer);
        injected["spec"]["initContainers"][1]["args"][4].clone()
    };
    run(async {
        // One that the watch may not have seen yet.
        cluster.api.put(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": "late", "labels": { "selvedge.dev/inject": "enabled" },
                "annotations": { "selvedge.dev/log": "debug" },
            },
        }));
        let answer = ask(&caller, "/inject/namespace", &review("late", &pod())).await;
        assert_eq!(log_of(&answer), "debug");
        // A change arrives by the watch.
        cluster.api.edit("namespaces", "", "late", |namespace| {
            namespace["metadata"]["annotations"]["selvedge.dev/log"] = json!("warn");
        });
        let deadline = tokio::time::Instant::now() + selvedge_tests::PATIENCE;
        while log_of(&ask(&caller, "/inject", &review("late", &pod())).await) != "warn" {
            assert!(tokio::time::Instant::now() < deadline);
        }
        // A label that is neither yes nor no is told to whoever creates the pod.
        cluster.api.edit("namespaces", "", "late", |namespace| {
            namespace["metadata"]["labels"]["selvedge.dev/inject"] = json!("yes");
        });
        let refused = loop {
            let answer = ask(&caller, "/inject/namespace", &review("late", &pod())).await;
            if answer["response"]["allowed"] == false {
                break answer;
            }
            assert!(tokio::time::Instant::now() < deadline);
        };
        let told = refused["response"]["status"]["message"].as_str().unwrap();
        assert!(
            told.contains("`yes`: expected `enabled` or `disabled`"),
            "{told}"
        );
        // The API away: what is known goes on, what is not fails the call, so that the policy decides.
        cluster.api.go_away();
        let answer = ask(&caller, "/inject/namespace", &review("shop", &pod())).await;
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let asked = review("unknown", &pod()).to_string();
        assert_eq!(caller.ask("/inject/namespace", asked).await.0, 503);
    });
}

/// Pods as their controllers would make them, of every form that the command line is tested with, with
/// what the command line makes of them.
fn forms() -> Vec<(String, Value, Option<Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/inject");
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if name.contains(".golden.") {
            continue;
        }
        let golden = text_of(&file.with_extension("golden.yaml"));
        let before = pods(&text_of(&file));
        let after = pods(&golden);
        assert!(golden.starts_with("# exit 1") || before.len() == after.len());
        for (index, before) in before.into_iter().enumerate() {
            out.push((name.clone(), before, after.get(index).cloned()));
        }
    }
    out
}

fn pods(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let items = documents.into_iter().flat_map(|document| {
        let items = document["items"].as_array().cloned();
        items.unwrap_or_else(|| vec![document])
    });
    items.filter_map(|item| pod_of(&item)).collect()
}

fn pod_of(object: &Value) -> Option<Value> {
    let kind = object["kind"].as_str()?;
    let template = selvedge_injector::pods::workload::template_of(kind)?;
    let mut pod = object.pointer(template)?.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    Some(pod)
}

#[test]
fn the_webhook_makes_of_every_form_what_the_command_line_makes_of_it() {
    let cluster = Cluster::start();
    let caller = cluster.caller();
    let forms = forms();
    assert!(forms.len() >= 40);
    let mut patches = String::new();
    run(async {
        let mut connection = caller.open().await;
        for (name, before, after) in &forms {
            let question = review("shop", before);
            let (status, answer) = connection
                .ask("/inject/namespace", question.to_string())
                .await;
            assert_eq!(status, 200, "{name}: {answer}");
            let Some(after) = after else {
                assert_eq!(answer["response"]["allowed"], false, "{name}");
                continue;
            };
            assert_eq!(answer["response"]["allowed"], true, "{name}: {answer}");
            let mut want = after.clone();
            // The installations differ, and so do what follows from them.
            if answer["response"]["patch"].is_null() {
                assert_eq!(before, after, "{name}");
                continue;
            }
            let (patch, mut got) = applied(before, &answer);
            let line = json!({ "name": name, "before": before, "patch": patch, "after": got });
            patches += &format!("{line}\n");
            for pod in [&mut want, &mut got] {
                let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
                annotations.remove("selvedge.dev/config").unwrap();
                annotations.remove("selvedge.dev/status").unwrap();
            }
            assert_eq!(got, want, "{name}");
        }
    });
    // What we take for a patch is one for others too.
    let file = cluster.api.dir().join("patches");
    std::fs::write(&file, &patches).unwrap();
    let checked = judge("kubernetes.py", &["patches", &file.display().to_string()]);
    assert!(checked.trim().parse::<usize>().unwrap() >= 40, "{checked}");
}

#[test]
fn the_api_server_is_told_the_roots_by_the_leader() {
    let mut cluster = Cluster::start();
    let lease = |key: &str| {
        let lease = cluster.api.find("leases", OWN, "selvedge-injector")?;
        Some(lease["spec"][key].clone())
    };
    assert_eq!(lease("holderIdentity"), Some(json!("one")));
    let told = text_of(&cluster.api.dir().join("ca.pem"));
    assert_eq!(bundle_of(&cluster.api).unwrap(), told);
    // Another replica is ready too, and does not lead.
    let second = injector(&cluster.api, &cluster.ca.url(), "two");
    wait_ready(&second);
    assert!(second.metric("selvedge_injector_leader", &[]) < 0.5);
    // Somebody overwrites it: the leader puts it right.
    cluster.api.edit(
        "mutatingwebhookconfigurations",
        "",
        "selvedge-injector",
        |webhooks| webhooks["webhooks"][1]["clientConfig"]["caBundle"] = json!("bm9uZQ=="),
    );
    until("caBundle", || {
        let found = cluster
            .api
            .find("mutatingwebhookconfigurations", "", "selvedge-injector")?;
        (found["webhooks"][1]["clientConfig"]["caBundle"] != "bm9uZQ==").then_some(())
    });
    assert_eq!(bundle_of(&cluster.api).unwrap(), told);
    // A leader that ends lets go; the other takes over at its next look.
    cluster.injector.signal("TERM");
    assert!(cluster.injector.wait().success());
    until("another leader", || {
        let lease = cluster.api.find("leases", OWN, "selvedge-injector")?;
        (lease["spec"]["holderIdentity"] == "two").then_some(())
    });
    until("leads", || {
        (second.metric("selvedge_injector_leader", &[]) > 0.5).then_some(())
    });
    let caller = Caller::new(&second, &told);
    run(async {
        let answer = ask(&caller, "/inject/namespace", &review("shop", &pod())).await;
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
    });
}

#[test]
fn the_ca_knows_accounts_by_their_tokens_and_nobody_else() {
    let cluster = Cluster::start();
    // The injector's own certificate is such a one, with the name that it serves.
    let certificate = run(async {
        let connection = cluster.caller().connect().await.unwrap();
        let (_, session) = connection.get_ref();
        session.peer_certificates().unwrap()[0].to_vec()
    });
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let names: Vec<String> = names
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        [
            "URI(spiffe://shop.local/ns/selvedge-system/sa/selvedge-injector)",
            "DNSName(selvedge-injector.selvedge-system.svc)",
        ]
    );
    // A pod's token gives a certificate of its account, without that name.
    let pod = Token::of_account("shop", "web").of_pod("web-1", "uid-1");
    cluster
        .api
        .add_token("pod.web.token", pod.clone().for_audiences(&[AUDIENCE]));
    cluster.api.add_token("pod.api.token", pod);
    let mut node = Token::of_account("shop", "web").for_audiences(&[AUDIENCE]);
    node.user = "system:node:one".to_owned();
    cluster.api.add_token("node.ca.token", node);
    let sidecar = |token: &str| {
        let bundle = cluster.api.dir().join("ca.pem");
        let file = cluster.api.dir().join("pod-token");
        std::fs::write(&file, token).unwrap();
        let (ca, bundle, file) = (cluster.ca.url(), bundle.display(), file.display());
        selvedge_tests::sidecar(&format!(
            "identity: {{ trustDomain: shop.local, ca: '{ca}', bundle: '{bundle}', token: '{file}' }}
outbound: {{ bind: \"127.0.0.1:0\" }}"
        ))
    };
    let web = sidecar("pod.web.token");
    until("ready", || {
        (web.get("health", "/ready").0 == 200).then_some(())
    });
    let (_, shown) = web.get("admin", "/certificates");
    assert!(
        shown.contains("spiffe://shop.local/ns/shop/sa/web"),
        "{shown}"
    );
    for token in ["pod.api.token", "node.ca.token", "for.ged.token", "guess"] {
        let nobody = sidecar(token);
        nobody.wait_for_log("request authenticate failure");
        assert_eq!(nobody.get("health", "/ready").0, 503);
    }
    for reason in [
        "is invalid for the target audiences",
        "which is no service account",
    ] {
        cluster.ca.process.wait_for_log(reason);
    }
    let log = cluster.ca.process.log().join("\n");
    assert!(!log.contains("pod.web.token"), "a token in the log");
}
