//! Tests of the settings of the session store in Redis.

use super::*;

fn read(text: &str) -> Result<RedisSettings, String> {
    use figment::providers::{Format as _, Toml};
    let read = figment::Figment::from(Toml::string(text)).extract();
    read.map_err(|error| error.to_string())
}

#[test]
fn the_smallest_settings_have_defaults() {
    let settings = read("urls = ['redis://store.example']").unwrap();
    let host = Host::Domain("store.example".to_owned());
    assert_eq!(settings.servers, [Address::Tcp(host, 6379)]);
    assert_eq!(settings.prefix, "sidegate:");
    assert_eq!((settings.database, &settings.tls), (0, &None));
    assert_eq!(settings.connect_timeout, Duration::from_secs(2));
    assert_eq!(settings.command_timeout, Duration::from_secs(1));
    assert_eq!(settings.coherence, Duration::from_secs(1));
    assert_eq!(settings.outage, Duration::from_mins(1));
}

#[test]
fn an_address_is_a_host_a_sentinel_or_a_socket() {
    let first = |text: &str| read(text).unwrap().servers[0].to_string();
    assert_eq!(
        first("urls = ['unix:///run/redis.sock']"),
        "/run/redis.sock"
    );
    assert_eq!(first("urls = ['redis://[::1]:7000/']"), "[::1]:7000");
    assert_eq!(first("urls = ['redis://127.0.0.1']"), "127.0.0.1:6379");
    let sentinels = "urls = ['rediss://a', 'rediss://b:1']\nsentinel_master = 'mymaster'";
    let settings = read(sentinels).unwrap();
    assert_eq!(settings.servers[0].to_string(), "a:26379");
    assert_eq!(settings.servers[1].to_string(), "b:1");
    assert_eq!(settings.tls, Some(TlsFiles::default()));
}

#[test]
fn a_mistake_names_its_key_and_shows_no_password() {
    for (text, expected) in [
        ("urls = []", "urls is empty"),
        (
            "urls = ['redis://a', 'redis://b']",
            "sentinel_master is not set",
        ),
        ("urls = ['redis://a', 'rediss://b']", "one of the two"),
        ("urls = ['redis://:hunter2@a']", "password_file"),
        ("urls = ['redis://a/3']", "with database"),
        ("urls = ['redis://a?db=1']", "query"),
        ("urls = ['http://a']", "the scheme http"),
        ("urls = ['redis://']", "without a host"),
        ("urls = ['unix://']", "without a path"),
        ("urls = ['store:hunter2']", "scheme"),
        (
            "urls = ['redis://a']\nca_file = 'ca'",
            "ca_file has no effect",
        ),
        (
            "urls = ['rediss://a']\nclient_cert_file = 'c'",
            "client_cert_file needs client_key_file",
        ),
        (
            "urls = ['redis://a']\nusername_file = 'u'",
            "username_file needs password_file",
        ),
        (
            "urls = ['redis://a']\nsentinel_password_file = 'p'",
            "no effect without sentinel_master",
        ),
        (
            "urls = ['unix:///a']\nsentinel_master = 'm'",
            "no Unix sockets",
        ),
        ("urls = ['redis://a']\nprefix = 'a{b'", "prefix must be"),
        ("urls = ['redis://a']\nprefix = ''", "prefix must be"),
        ("urls = ['redis://a']\ncoherence_secs = 61", "exceeds 60"),
        ("urls = ['redis://a']\noutage_secs = 3601", "exceeds 3600"),
        ("urls = ['redis://a']\ncommand_timeout_secs = 0", "nonzero"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
