use std::error::Error as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn clock() -> Clock {
    Clock::manual(NOW)
}

fn made(dir: &Path) -> ServerIdentity {
    let written = development_certificates(dir, &[], NOW).unwrap();
    ServerIdentity {
        certificate: written.certificate,
        key: written.key,
    }
}

fn copy(from: &ServerIdentity, to: &ServerIdentity) {
    fs::copy(&from.certificate, &to.certificate).unwrap();
    fs::copy(&from.key, &to.key).unwrap();
}

#[test]
fn an_unchanged_file_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let acceptor = Acceptor::load(&made(dir.path()), clock()).unwrap();
    let before = acceptor.config();
    assert_eq!(acceptor.refresh().unwrap(), Refreshed::Unchanged);
    assert!(Arc::ptr_eq(&before, &acceptor.config()));
}

#[test]
fn a_new_certificate_reaches_every_clone() {
    let dir = TempDir::new().unwrap();
    let identity = made(&dir.path().join("a"));
    let acceptor = Acceptor::load(&identity, clock()).unwrap();
    let other = acceptor.clone();
    let before = other.config();
    copy(&made(&dir.path().join("b")), &identity);
    assert_eq!(acceptor.refresh().unwrap(), Refreshed::Replaced);
    assert!(!Arc::ptr_eq(&before, &other.config()));
}

#[test]
fn t_07_invalid_files_change_nothing_and_are_named() {
    let dir = TempDir::new().unwrap();
    let identity = made(&dir.path().join("a"));
    let acceptor = Acceptor::load(&identity, clock()).unwrap();
    let before = acceptor.config();
    let good = fs::read(&identity.certificate).unwrap();
    let key = fs::read(&identity.key).unwrap();
    let fresh = made(&dir.path().join("b"));

    fs::write(&identity.certificate, &good[..good.len() / 2]).unwrap();
    let error = acceptor.refresh().unwrap_err();
    assert!(matches!(error, Error::BadCertificate { .. }), "{error:?}");
    assert!(error.to_string().contains("localhost.pem"), "{error}");

    fs::write(&identity.certificate, "").unwrap();
    assert!(matches!(
        acceptor.refresh(),
        Err(Error::NoCertificate { .. })
    ));

    // The certificate file contains the new certificate, but the key file still contains the old
    // key.
    fs::copy(&fresh.certificate, &identity.certificate).unwrap();
    assert!(matches!(acceptor.refresh(), Err(Error::KeyMismatch { .. })));

    fs::write(&identity.key, &key[..key.len() / 2]).unwrap();
    assert!(matches!(acceptor.refresh(), Err(Error::BadKey { .. })));

    fs::remove_file(&identity.key).unwrap();
    assert!(matches!(acceptor.refresh(), Err(Error::Read { .. })));

    assert!(
        Arc::ptr_eq(&before, &acceptor.config()),
        "the old configuration stays in use"
    );
    fs::copy(&fresh.key, &identity.key).unwrap();
    assert_eq!(acceptor.refresh().unwrap(), Refreshed::Replaced);
}

#[test]
fn t_07_a_swapped_link_is_a_change() {
    let dir = TempDir::new().unwrap();
    made(&dir.path().join("v1"));
    made(&dir.path().join("v2"));
    let data = dir.path().join("data");
    symlink("v1", &data).unwrap();
    let identity = ServerIdentity {
        certificate: data.join("localhost.pem"),
        key: data.join("localhost-key.pem"),
    };
    let acceptor = Acceptor::load(&identity, clock()).unwrap();
    let next = dir.path().join("next");
    symlink("v2", &next).unwrap();
    fs::rename(&next, &data).unwrap();
    assert_eq!(acceptor.refresh().unwrap(), Refreshed::Replaced);
    assert_eq!(acceptor.refresh().unwrap(), Refreshed::Unchanged);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let dir = TempDir::new().unwrap();
    let one = made(&dir.path().join("a"));
    let two = made(&dir.path().join("b"));
    let mixed = ServerIdentity {
        certificate: one.certificate,
        key: two.key,
    };
    assert!(matches!(
        Acceptor::load(&mixed, clock()),
        Err(Error::KeyMismatch { .. })
    ));
}

#[test]
fn errors_never_quote_the_key_file() {
    let dir = TempDir::new().unwrap();
    let identity = made(dir.path());
    fs::write(&identity.key, "-----BEGIN canary PRIVATE\ncanary\n").unwrap();
    let error = Acceptor::load(&identity, clock()).unwrap_err();
    let shown = format!("{error} {error:?} {:?}", error.source());
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn the_validity_period_is_checked_separately() {
    let dir = TempDir::new().unwrap();
    let identity = made(dir.path());
    let leaf = CertificateDer::from_pem_slice(&fs::read(identity.certificate).unwrap()).unwrap();
    let year = Duration::from_hours(24 * 365);
    assert_eq!(validity(&leaf, NOW), Validity::Current);
    assert_eq!(validity(&leaf, NOW.plus(year)), Validity::Current);
    assert_eq!(validity(&leaf, NOW.plus(year * 2)), Validity::Expired);
    assert_eq!(validity(&leaf, Timestamp::from_millis(0)), Validity::NotYet);
}

#[test]
fn a_certificate_that_expires_while_in_use_stays_in_use() {
    let dir = TempDir::new().unwrap();
    let clock = clock();
    let acceptor = Acceptor::load(&made(dir.path()), clock.clone()).unwrap();
    let before = acceptor.config();
    clock.advance(Duration::from_hours(24 * 800));
    assert_eq!(acceptor.refresh().unwrap(), Refreshed::Unchanged);
    assert_eq!(acceptor.0.loaded.load().validity, Validity::Expired);
    assert!(Arc::ptr_eq(&before, &acceptor.config()));
}

#[test]
fn t_05_early_data_is_off_and_both_protocols_are_offered() {
    let dir = TempDir::new().unwrap();
    let config = Acceptor::load(&made(dir.path()), clock()).unwrap().config();
    assert_eq!(config.max_early_data_size, 0);
    assert_eq!(
        config.alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
    assert!(config.ticketer.enabled());
}

#[test]
fn t_12_a_list_with_an_invalid_authority_is_not_used() {
    let dir = TempDir::new().unwrap();
    let written = development_certificates(dir.path(), &[], NOW).unwrap();
    let good = fs::read_to_string(&written.authority).unwrap();
    let path = dir.path().join("list.pem");
    assert!(matches!(Trust::from_file(&path), Err(Error::Read { .. })));
    for (text, ok) in [
        (good.clone(), true),
        (format!("{good}{good}"), true),
        (String::new(), false),
        (String::from("no certificate here\n"), false),
        (format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n"), false),
        (
            format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            false,
        ),
    ] {
        fs::write(&path, &text).unwrap();
        assert_eq!(Trust::from_file(&path).is_ok(), ok, "{text}");
    }
    fs::write(&path, good).unwrap();
    let config = Trust::from_file(&path).unwrap().client_config();
    assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
}

#[test]
fn t_12_every_clone_gets_new_authorities_and_invalid_ones_change_nothing() {
    let dir = TempDir::new().unwrap();
    let [one, other] = ["a", "b"].map(|name| {
        let written = development_certificates(&dir.path().join(name), &[], NOW);
        fs::read(written.unwrap().authority).unwrap()
    });
    let path = dir.path().join("ca.pem");
    fs::write(&path, &one).unwrap();
    let trust = Trust::from_file(&path).unwrap();
    let (clone, before) = (trust.clone(), trust.client_config());
    let unchanged = || Arc::ptr_eq(&before, &clone.client_config());
    assert_eq!(trust.refresh().unwrap(), Refreshed::Unchanged);
    assert!(unchanged());
    for bad in [&b""[..], b"no certificate\n", &other[..other.len() / 2]] {
        fs::write(&path, bad).unwrap();
        // The second call must return the same error as the first call.
        for _ in 0..2 {
            assert!(trust.refresh().is_err());
            assert!(unchanged());
        }
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(trust.refresh(), Err(Error::Read { .. })));
    assert!(unchanged());
    fs::write(&path, &one).unwrap();
    assert_eq!(trust.refresh().unwrap(), Refreshed::Unchanged);
    fs::write(&path, &other).unwrap();
    assert_eq!(trust.refresh().unwrap(), Refreshed::Replaced);
    assert!(!unchanged());
    assert_eq!(trust.refresh().unwrap(), Refreshed::Unchanged);
}

#[test]
fn development_files_are_never_overwritten() {
    let dir = TempDir::new().unwrap();
    let written = development_certificates(dir.path(), &[], NOW).unwrap();
    let key = fs::read(&written.key).unwrap();
    for kept in [&written.authority, &written.certificate, &written.key] {
        for path in [&written.authority, &written.certificate, &written.key] {
            if path != kept {
                fs::rename(path, path.with_extension("aside")).unwrap();
            }
        }
        let error = development_certificates(dir.path(), &[], NOW).unwrap_err();
        assert!(
            matches!(&error, Error::AlreadyExists { path } if path == kept),
            "{error}"
        );
        for path in [&written.authority, &written.certificate, &written.key] {
            if path != kept {
                assert!(!path.exists(), "a file was written before the error");
                fs::rename(path.with_extension("aside"), path).unwrap();
            }
        }
    }
    assert_eq!(fs::read(&written.key).unwrap(), key);
}

#[test]
fn t_14_only_the_owner_can_read_the_development_key() {
    let dir = TempDir::new().unwrap();
    let written = development_certificates(dir.path(), &["app.localhost"], NOW).unwrap();
    let mode = fs::metadata(&written.key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 3, "the authority's key must not be stored");
    let leaf = CertificateDer::from_pem_slice(&fs::read(&written.certificate).unwrap()).unwrap();
    let leaf = ParsedCertificate::try_from(&leaf).unwrap();
    for name in ["localhost", "127.0.0.1", "::1", "app.localhost"] {
        let name = name.try_into().unwrap();
        rustls::client::verify_server_name(&leaf, &name).unwrap();
    }
}

#[test]
fn an_invalid_name_writes_no_files() {
    let dir = TempDir::new().unwrap();
    let result = development_certificates(dir.path(), &["caf\u{e9}"], NOW);
    assert!(matches!(result, Err(Error::Generate(_))), "{result:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_invalid_certificate_is_refused_and_its_file_is_named() {
    let dir = TempDir::new().unwrap();
    let identity = made(dir.path());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![String::from("localhost")]).unwrap();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    fs::write(
        &identity.certificate,
        request.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
    )
    .unwrap();
    let error = Acceptor::load(&identity, clock()).unwrap_err();
    assert!(
        matches!(&error, Error::Refused { path, .. } if *path == identity.certificate),
        "{error:?}"
    );
}
