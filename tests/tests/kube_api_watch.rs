//! The test API server: lists and watches, asked for by a client that real clusters are asked by.

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Config, Error};
use selvedge_tests::PATIENCE;
use selvedge_tests::kube::KubeApi;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_stream::StreamExt;

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

fn service(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop", "labels": labels },
        "spec": { "ports": [{ "port": 80 }], "selector": { "app": name } },
    })
}

async fn next<T>(
    stream: &mut (impl tokio_stream::Stream<Item = Result<WatchEvent<T>, Error>> + Unpin),
) -> Option<Result<WatchEvent<T>, Error>> {
    timeout(PATIENCE, stream.next())
        .await
        .expect("nothing came")
}

#[tokio::test]
async fn lists_come_in_chunks_of_one_version() {
    let api = KubeApi::start();
    for number in 0..7 {
        api.put(service(
            &format!("s{number}"),
            &json!({ "tier": if number < 4 { "a" } else { "b" } }),
        ));
    }
    let services: Api<Service> = Api::all(client(&api));
    let chunk = ListParams::default().limit(3);
    let first = services.list(&chunk).await.unwrap();
    assert_eq!(
        (first.items.len(), first.metadata.remaining_item_count),
        (3, Some(4))
    );
    // What happens meanwhile is not in the rest.
    api.delete("services", "shop", "s6");
    api.put(service("s9", &json!({})));
    let mut names: Vec<_> = first
        .items
        .iter()
        .filter_map(|s| s.metadata.name.clone())
        .collect();
    let mut token = first.metadata.continue_;
    while let Some(go_on) = token.filter(|t| !t.is_empty()) {
        let next = services
            .list(&chunk.clone().continue_token(&go_on))
            .await
            .unwrap();
        assert_eq!(
            next.metadata.resource_version,
            first.metadata.resource_version
        );
        names.extend(next.items.iter().filter_map(|s| s.metadata.name.clone()));
        token = next.metadata.continue_;
    }
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4", "s5", "s6"]);
    let again = services
        .list(&chunk)
        .await
        .unwrap()
        .metadata
        .continue_
        .unwrap();
    api.put(service("s10", &json!({})));
    api.compact();
    assert_eq!(
        refusal(services.list(&chunk.clone().continue_token(&again)).await).code,
        410
    );
    let count = async |labels: &str, fields: &str| {
        services
            .list(&ListParams::default().labels(labels).fields(fields))
            .await
            .unwrap()
            .items
            .len()
    };
    assert_eq!(count("tier=a", "").await, 4);
    assert_eq!(count("tier!=a", "").await, 4);
    assert_eq!(count("tier in (a,b),tier notin (b)", "").await, 4);
    assert_eq!(count("!tier", "metadata.namespace=shop").await, 2);
    let address = api.find("services", "shop", "s2").unwrap()["spec"]["clusterIP"].clone();
    assert_eq!(
        count("", &format!("spec.clusterIP={}", address.as_str().unwrap())).await,
        1
    );
    let bare: Api<Service> = Api::all(client(&api));
    let metadata = bare.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 8);
}

#[tokio::test]
async fn a_watch_tells_what_happens_to_what_it_selects() {
    let api = KubeApi::start();
    let services: Api<Service> = Api::namespaced(client(&api), "shop");
    let version = api.version().to_string();
    let params = WatchParams::default().labels("tier=a").timeout(60);
    let mut events = pin!(services.watch(&params, &version).await.unwrap());
    api.put(service("x", &json!({ "tier": "a" })));
    api.put(service("y", &json!({ "tier": "b" })));
    api.put(service("x", &json!({ "tier": "a", "more": "1" })));
    api.put(service("x", &json!({ "tier": "b" })));
    api.put(service("x", &json!({ "tier": "a" })));
    api.delete("services", "shop", "x");
    let mut seen = Vec::new();
    while seen.len() < 5 {
        match next(&mut events).await.unwrap().unwrap() {
            WatchEvent::Added(s) => seen.push(("added", s.metadata.name.unwrap())),
            WatchEvent::Modified(s) => seen.push(("modified", s.metadata.name.unwrap())),
            WatchEvent::Deleted(s) => seen.push(("deleted", s.metadata.name.unwrap())),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    let kinds: Vec<_> = seen.iter().map(|(what, _)| *what).collect();
    assert_eq!(kinds, ["added", "modified", "deleted", "added", "deleted"]);
    assert!(seen.iter().all(|(_, name)| name == "x"));
    // What nobody selects moves the bookmark.
    api.put(service("y", &json!({ "tier": "c" })));
    let moved = api.version().to_string();
    loop {
        if let WatchEvent::Bookmark(mark) = next(&mut events).await.unwrap().unwrap()
            && mark.metadata.resource_version == moved
        {
            break;
        }
    }
    assert_eq!(api.watches().len(), 1);
    assert_eq!(api.watches()[0].labels, "tier=a");
}

#[tokio::test]
async fn a_streaming_list_ends_with_a_mark() {
    let api = KubeApi::start();
    api.put(service("x", &json!({})));
    let services: Api<Service> = Api::all(client(&api));
    let mut events = pin!(
        services
            .watch(&WatchParams::default().initial_events(), "")
            .await
            .unwrap()
    );
    assert!(matches!(
        next(&mut events).await.unwrap().unwrap(),
        WatchEvent::Added(_)
    ));
    let WatchEvent::Bookmark(mark) = next(&mut events).await.unwrap().unwrap() else {
        panic!("no mark")
    };
    assert_eq!(
        mark.metadata.annotations["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn a_watch_ends_as_it_does_in_a_cluster() {
    let api = KubeApi::start();
    let services: Api<Service> = Api::all(client(&api));
    let old = api.version().to_string();
    let params = WatchParams::default();
    let mut short = pin!(
        services
            .watch(&params.clone().timeout(1), &old)
            .await
            .unwrap()
    );
    while let Some(event) = next(&mut short).await {
        assert!(matches!(event.unwrap(), WatchEvent::Bookmark(_)));
    }
    let mut cut = pin!(services.watch(&params, &old).await.unwrap());
    api.wait_for_watches(|open| open.len() == 1);
    api.drop_watches();
    assert!(next(&mut cut).await.is_some_and(|end| end.is_err()));
    api.put(service("x", &json!({})));
    api.compact();
    let mut gone = pin!(services.watch(&params, &old).await.unwrap());
    let Some(Ok(WatchEvent::Error(status))) = next(&mut gone).await else {
        panic!("no 410")
    };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    api.gone_by_status(true);
    let mut refused = pin!(services.watch(&params, &old).await.unwrap());
    assert_eq!(refusal(next(&mut refused).await.unwrap()).code, 410);
}

#[tokio::test]
async fn a_server_that_was_away_knows_what_it_knew() {
    let api = KubeApi::start();
    api.put(service("x", &json!({})));
    let services: Api<Service> = Api::namespaced(client(&api), "shop");
    let mut events = pin!(services.watch(&WatchParams::default(), "0").await.unwrap());
    next(&mut events).await.unwrap().unwrap();
    api.go_away();
    assert!(next(&mut events).await.is_none_or(|end| end.is_err()));
    assert!(services.get("x").await.is_err());
    api.come_back();
    services.get("x").await.unwrap();
    api.fail("services", 1, 503);
    assert_eq!(refusal(services.get("x").await).code, 503);
    api.delay(Duration::from_millis(50));
    let before = tokio::time::Instant::now();
    services.get("x").await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(50));
}
