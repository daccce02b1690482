//! Pods and workloads of every form that `tests/cases/inject` holds, with what becomes of each beside it.
//! `SELVEDGE_WRITE=1` writes that anew, to be read before it is committed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use selvedge_tests::process::binary;
use selvedge_tests::python::judge;

/// Files of the folder: forms, without what is expected of them.
fn forms() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/inject");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let name = |path: &Path| path.to_string_lossy().into_owned();
    let mut forms: Vec<_> = files.filter(|p| !name(p).contains(".golden.")).collect();
    forms.sort();
    assert!(forms.len() >= 40, "{} forms", forms.len());
    forms
}

fn golden(form: &Path) -> PathBuf {
    form.with_extension("golden.yaml")
}

/// What a command makes of a text: its exit code, what it writes, what it says.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(binary())
        .args(arguments)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn every_form_becomes_what_stands_beside_it() {
    let write = std::env::var_os("SELVEDGE_WRITE").is_some();
    let mut wrong = Vec::new();
    for form in forms() {
        let input = std::fs::read_to_string(&form).unwrap();
        let (code, out, said) = run(&["inject", "--manual"], &input);
        let said = said.lines().map(|line| format!("# {line}\n"));
        let got = format!("# exit {code}\n{}{out}", said.collect::<String>());
        let file = golden(&form);
        if write {
            std::fs::write(&file, &got).unwrap();
        }
        if std::fs::read_to_string(&file).ok().as_deref() != Some(&*got) {
            wrong.push(format!("{}:\n{got}", form.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_form_is_the_same_when_injected_twice_and_what_it_was_when_uninjected() {
    for form in forms() {
        let name = form.display();
        let input = std::fs::read_to_string(&form).unwrap();
        let (code, once, _) = run(&["inject", "--manual"], &input);
        if code != 0 {
            assert_eq!(once, "", "{name}: something of what was refused");
            continue;
        }
        let (_, twice, _) = run(&["inject", "--manual"], &once);
        assert_eq!(once, twice, "{name}");
        // The text's form is not kept, what it says is.
        let (code, back, _) = run(&["uninject"], &once);
        assert_eq!(code, 0, "{name}");
        assert_eq!(objects(&back), objects(&without_label(&input)), "{name}");
    }
}

/// The label that asks for a sidecar goes with it.
fn without_label(input: &str) -> String {
    input.replace("  labels:\n    selvedge.dev/inject: enabled\n", "")
}

fn objects(text: &str) -> Vec<serde_json::Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

#[test]
fn every_output_is_what_kubernetes_takes() {
    let files: Vec<String> = forms()
        .iter()
        .map(|form| golden(form).display().to_string())
        .collect();
    let mut arguments = vec!["schemas"];
    arguments.extend(files.iter().map(String::as_str));
    let checked: usize = judge("kubernetes.py", &arguments).trim().parse().unwrap();
    assert!(checked >= 3 * 48, "{checked}");
}

/// Every configuration that an output has in an annotation.
fn configurations(value: &serde_json::Value, out: &mut Vec<String>) {
    if let Some(config) = value["selvedge.dev/config"].as_str() {
        out.push(config.to_owned());
    }
    match value {
        serde_json::Value::Array(list) => list.iter().for_each(|v| configurations(v, out)),
        serde_json::Value::Object(map) => map.values().for_each(|v| configurations(v, out)),
        _ => {}
    }
}

#[test]
fn every_configuration_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = Vec::new();
    for form in forms() {
        for object in objects(&std::fs::read_to_string(golden(&form)).unwrap()) {
            configurations(&object, &mut configs);
        }
    }
    configs.sort();
    configs.dedup();
    assert!(configs.len() >= 12, "{}", configs.len());
    for config in configs {
        let file = dir.path().join("sidecar.yaml");
        std::fs::write(&file, &config).unwrap();
        let output = Command::new(binary())
            .args(["check", "--mode", "sidecar"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{config}: {said}");
    }
}
