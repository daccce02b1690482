//! The files of the authority: created, loaded, refused, renewed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use selvedge_ca::authority::Flaw;
use selvedge_ca::rotation::{Ends, Readiness};
use selvedge_ca::{Authority, AuthorityError, DiskError};
use tempfile::TempDir;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::support::{DAY, HOUR, authority, der, domain, now, orders, request, verify};

const FILES: [&str; 4] = [
    "root.pem",
    "root.key",
    "intermediate.pem",
    "intermediate.key",
];

fn load(dir: &Path) -> Result<Authority, AuthorityError> {
    Authority::create_or_load(dir, &domain(), now())
}

fn created() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    load(dir.path()).unwrap();
    dir
}

fn read(dir: &TempDir, file: &str) -> String {
    fs::read_to_string(dir.path().join(file)).unwrap()
}

/// The file at fault and its flaw.
fn flaw(error: &AuthorityError) -> (String, Flaw) {
    let AuthorityError::File { path, flaw } = error else {
        panic!("{error}");
    };
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
    (name.to_owned(), *flaw)
}

#[test]
fn a_new_directory_is_private_and_complete() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("a/ca");
    load(&dir).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("root.key")), 0o600);
    assert_eq!(mode(&dir.join("intermediate.key")), 0o600);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut expected = FILES.to_vec();
    assert_eq!(mode(&dir.join("jwt.key")), 0o600);
    expected.extend([".lock", "jwt.key"]);
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn certificates_are_what_they_should_be() {
    let dir = created();
    let trust_domain = GeneralName::URI("spiffe://shop.local");
    for (file, path_length, days) in [("root.pem", None, 3650), ("intermediate.pem", Some(0), 30)] {
        let der = der(&read(&dir, file));
        let (_, certificate) = parse_x509_certificate(&der).unwrap();
        let basic = certificate.basic_constraints().unwrap().unwrap();
        assert!(basic.critical && basic.value.ca);
        assert_eq!(basic.value.path_len_constraint, path_length);
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        assert_eq!(names.value.general_names[0], trust_domain);
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign());
        assert!(!usage.value.digital_signature());
        assert!(certificate.extended_key_usage().unwrap().is_none());
        assert!(certificate.name_constraints().unwrap().is_none());
        let end = certificate.validity().not_after.timestamp();
        assert_eq!(end, 1_800_000_000 + days * 24 * 3600);
    }
}

#[test]
fn a_restart_keeps_root_and_intermediate() {
    let dir = created();
    let before = FILES.map(|file| read(&dir, file));
    let again = load(dir.path()).unwrap();
    assert_eq!(*again.bundle().pem, before[0]);
    assert_eq!(FILES.map(|file| read(&dir, file)), before);
    let issued = again.issue(&request().0, &orders(), None, now()).unwrap();
    assert_eq!(issued.chain_pem[1], before[2]);
    verify(&issued.chain_pem, now(), false).unwrap();
}

#[test]
fn two_processes_that_start_together_agree() {
    let dir = tempfile::tempdir().unwrap();
    let bundles: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| load(dir.path()).unwrap().bundle().pem))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(bundles.iter().all(|bundle| *bundle == bundles[0]));
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    for file in ["root.key", "intermediate.key"] {
        let dir = created();
        let path = dir.path().join(file);
        for mode in [0o644, 0o640, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = load(dir.path()).unwrap_err();
            assert!(error.to_string().contains(file), "{error}");
            let expected = AuthorityError::Disk(DiskError::Exposed {
                path: path.clone(),
                mode,
            });
            assert_eq!(error.to_string(), expected.to_string());
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        load(dir.path()).unwrap();
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let dir = created();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(matches!(
        error,
        AuthorityError::Disk(DiskError::OpenDirectory { .. })
    ));
}

#[test]
fn damaged_files_are_refused_by_name() {
    for (file, expected) in
        FILES
            .into_iter()
            .zip([Flaw::Certificate, Flaw::Key, Flaw::Certificate, Flaw::Key])
    {
        let dir = created();
        let path = dir.path().join(file);
        let good = read(&dir, file);
        for bad in [
            "",
            "junk",
            &good[..good.len() / 2],
            &good.replace('\n', "\n!"),
        ] {
            fs::write(&path, bad).unwrap();
            let error = load(dir.path()).unwrap_err();
            assert_eq!(flaw(&error), (file.to_owned(), expected), "{bad}");
        }
    }
}

#[test]
fn keys_of_other_certificates_are_refused() {
    for file in ["root.key", "intermediate.key"] {
        let (dir, other) = (created(), created());
        fs::write(dir.path().join(file), read(&other, file)).unwrap();
        let error = load(dir.path()).unwrap_err();
        assert_eq!(flaw(&error), (file.to_owned(), Flaw::Mismatch));
    }
    let (dir, other) = (created(), created());
    for file in ["intermediate.pem", "intermediate.key"] {
        fs::write(dir.path().join(file), read(&other, file)).unwrap();
    }
    let error = load(dir.path()).unwrap_err();
    assert_eq!(flaw(&error), ("intermediate.pem".into(), Flaw::Issuer));
}

#[test]
fn missing_files_are_named_and_never_replaced_silently() {
    for (gone, named) in [
        ("root.pem", "root.pem"),
        ("intermediate.pem", "intermediate.pem"),
        ("intermediate.key", "intermediate.key"),
    ] {
        let dir = created();
        fs::remove_file(dir.path().join(gone)).unwrap();
        let error = load(dir.path()).unwrap_err();
        let AuthorityError::Missing { path } = &error else {
            panic!("{error}");
        };
        assert!(path.ends_with(named));
        assert!(!dir.path().join(gone).exists());
    }
}

#[test]
fn another_trust_domain_is_refused() {
    let dir = created();
    let other = "other.local".parse().unwrap();
    let error = Authority::create_or_load(dir.path(), &other, now()).unwrap_err();
    assert_eq!(flaw(&error), ("root.pem".into(), Flaw::TrustDomain));
}

#[test]
fn a_leaf_is_no_root() {
    let dir = created();
    let issued = authority()
        .issue(&request().0, &orders(), None, now())
        .unwrap();
    fs::write(dir.path().join("root.pem"), &issued.chain_pem[0]).unwrap();
    let error = load(dir.path()).unwrap_err();
    assert_eq!(flaw(&error), ("root.pem".into(), Flaw::NotAuthority));
}

#[test]
fn an_expired_root_is_refused_and_a_clock_in_the_past_too() {
    let dir = created();
    let at = |when| Authority::create_or_load(dir.path(), &domain(), when).unwrap_err();
    let late = at(now() + 3651 * DAY);
    assert_eq!(flaw(&late), ("root.pem".into(), Flaw::Expired));
    let early = at(now() - DAY);
    assert_eq!(flaw(&early), ("root.pem".into(), Flaw::Early));
}

#[test]
fn a_due_intermediate_is_replaced_and_old_chains_still_verify() {
    let dir = created();
    let old = load(dir.path()).unwrap();
    let issued = old
        .issue(&request().0, &orders(), Some(29 * DAY), now())
        .unwrap();
    let before = read(&dir, "intermediate.pem");

    let at = |days| Authority::create_or_load(dir.path(), &domain(), now() + days * DAY).unwrap();
    at(19);
    assert_eq!(read(&dir, "intermediate.pem"), before);
    let new = at(21);
    assert_ne!(read(&dir, "intermediate.pem"), before);
    assert_eq!(new.intermediate_ends(), now() + 51 * DAY);
    assert_eq!(new.bundle(), old.bundle());
    verify(&issued.chain_pem, now() + 21 * DAY, true).unwrap();
    let fresh = new.issue(&request().0, &orders(), None, now() + 21 * DAY);
    verify(&fresh.unwrap().chain_pem, now() + 21 * DAY, true).unwrap();
    // The running process picks up what another one made.
    assert!(old.renew_if_due(now() + 21 * DAY).unwrap());
    assert_eq!(old.intermediate_ends(), new.intermediate_ends());
    assert!(!old.renew_if_due(now() + 21 * DAY).unwrap());
}

#[test]
fn an_intermediate_that_expired_while_nothing_ran_is_replaced() {
    let dir = created();
    let late = now() + 100 * DAY;
    let authority = Authority::create_or_load(dir.path(), &domain(), late).unwrap();
    assert_eq!(authority.intermediate_ends(), late + 30 * DAY);
}

#[test]
fn with_the_root_key_offline_the_intermediate_serves_until_its_end() {
    let dir = created();
    fs::remove_file(dir.path().join("root.key")).unwrap();
    let at = |days| Authority::create_or_load(dir.path(), &domain(), now() + days * DAY);
    let authority = at(25).unwrap();
    assert!(authority.is_due(now() + 25 * DAY));
    assert!(!authority.renew_if_due(now() + 25 * DAY).unwrap());
    let error = at(31).unwrap_err();
    assert_eq!(flaw(&error), ("intermediate.pem".into(), Flaw::Expired));
    fs::remove_file(dir.path().join("intermediate.pem")).unwrap();
    fs::remove_file(dir.path().join("intermediate.key")).unwrap();
    assert!(matches!(at(0), Err(AuthorityError::Missing { .. })));
}

#[test]
fn an_intermediate_never_outlives_its_root() {
    let dir = created();
    let late = now() + 3640 * DAY;
    let authority = Authority::create_or_load(dir.path(), &domain(), late).unwrap();
    assert_eq!(authority.intermediate_ends(), now() + 3650 * DAY);
    assert!(authority.issue(&request().0, &orders(), None, late).is_ok());
}

#[test]
fn an_interrupted_replacement_is_finished_or_undone() {
    // Both new files are complete, but only the key got its name: go forward.
    let (dir, donor) = (created(), created());
    for file in FILES {
        fs::copy(donor.path().join(file), dir.path().join(file)).unwrap();
    }
    let due = now() + 21 * DAY;
    Authority::create_or_load(donor.path(), &domain(), due).unwrap();
    let copy = |from: &str, to: &str| {
        fs::copy(donor.path().join(from), dir.path().join(to)).unwrap();
    };
    copy("intermediate.key", "intermediate.key");
    copy("intermediate.pem", "intermediate.next.pem");
    Authority::create_or_load(dir.path(), &domain(), due).unwrap();
    assert_eq!(
        read(&dir, "intermediate.pem"),
        read(&donor, "intermediate.pem")
    );

    // Only the new key was written: back to the old pair.
    copy("root.key", "intermediate.next.key");
    Authority::create_or_load(dir.path(), &domain(), due).unwrap();
    assert!(!dir.path().join("intermediate.next.key").exists());
    assert!(!dir.path().join("intermediate.next.pem").exists());
}

#[test]
fn further_roots_stay_in_the_bundle() {
    let (dir, other) = (created(), created());
    let both = format!(
        "the new one\n{}\nthe old one\n{}",
        read(&dir, "root.pem"),
        read(&other, "root.pem")
    );
    fs::write(dir.path().join("root.pem"), both).unwrap();
    let authority = load(dir.path()).unwrap();
    assert_eq!(authority.bundle_der().len(), 2);
    let expected = read(&dir, "root.pem").matches("BEGIN").count();
    assert_eq!(authority.bundle().pem.matches("BEGIN").count(), expected);
    assert!(!authority.bundle().pem.contains("the old one"));
}

#[test]
fn an_ephemeral_authority_renews_too() {
    let authority = authority();
    let later = now() + Duration::from_secs(21 * 24 * 3600);
    assert!(!authority.renew_if_due(now()).unwrap());
    assert!(authority.renew_if_due(later).unwrap());
    let issued = authority
        .issue(&request().0, &orders(), None, later)
        .unwrap();
    verify(&issued.chain_pem, later, true).unwrap();
    assert!(!format!("{authority:?}").contains("key"));
}

#[test]
fn an_old_generation_without_its_root_key_may_end_before_it_is_retired() {
    let dir = created();
    let authority = load(dir.path()).unwrap();
    let ends = || Ends { all: 0, unnamed: 0 };
    authority.prepare(ends, now()).unwrap();
    let ready = |_: &[u8; 32]| Readiness {
        known: 0,
        waiting: 0,
    };
    authority
        .activate(ready, || 0, now() + HOUR, false)
        .unwrap();
    // The root's key was offline all the time.
    fs::remove_file(dir.path().join("root.key")).unwrap();
    let later = now() + DAY * 31;
    let authority = Authority::create_or_load(dir.path(), &domain(), later).unwrap();
    authority.retire(later, false).unwrap();
    assert_eq!(authority.bundle_der().len(), 1);
}

#[test]
fn a_lost_record_of_a_rotation_costs_no_key() {
    let dir = created();
    let authority = load(dir.path()).unwrap();
    let ends = || Ends { all: 0, unnamed: 0 };
    authority.prepare(ends, now()).unwrap();
    let ready = |_: &[u8; 32]| Readiness {
        known: 0,
        waiting: 0,
    };
    authority.activate(ready, || 0, now(), false).unwrap();
    authority.retire(now() + HOUR, false).unwrap();
    let record = dir.path().join("rotation.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::remove_file(&record).unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(matches!(error, AuthorityError::Missing { .. }), "{error}");
    assert!(!dir.path().join("root.pem").exists());
    // With it all is as it was.
    fs::write(&record, text).unwrap();
    assert_eq!(load(dir.path()).unwrap().bundle(), authority.bundle());
}
