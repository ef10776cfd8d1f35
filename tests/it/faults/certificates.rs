//! Certificates of the gateway that are replaced under load, by valid and by invalid files.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{LOOK, Plan, Row, run_row};
use crate::support::certificates::Identity;
use crate::support::wire::TEST_TIMEOUT;

/// The events of the log.
const REPLACED: &str = "Certificate replaced";
const REFUSED: &str = "Settings not reloaded";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_19_a_certificate_is_replaced_by_valid_files_and_kept_after_invalid_files() {
    let plan = Plan {
        tls: true,
        ..Plan::default()
    };
    run_row("a certificate is replaced", plan, async |row: &mut Row| {
        let first = presented(row).await;
        // The gateway notices the new files by itself.
        let second = issue(row);
        write(row, &second.certificate, &second.key);
        row.gateway.wait_for_log(|log| log.contains(REPLACED)).await;
        assert_ne!(first, der(&second.certificate));
        assert_eq!(presented(row).await, der(&second.certificate));
        let third = issue(row);
        let half = &third.certificate[..third.certificate.len() / 2];
        let invalid = [
            ("", &*third.key),
            (half, &third.key),
            ("garbage", &third.key),
            (&third.certificate, ""),
            (&third.certificate, "garbage"),
            (&third.certificate, &second.key),
        ];
        row.outcome.more_rows += invalid.len() + 1;
        for (number, (certificate, key)) in invalid.into_iter().enumerate() {
            write(row, certificate, key);
            row.gateway.signal("HUP").await;
            let refused = |log: &str| log.matches(REFUSED).count() == number + 1;
            row.gateway.wait_for_log(refused).await;
            assert_eq!(presented(row).await, der(&second.certificate));
        }
        write(row, &third.certificate, &third.key);
        row.gateway.signal("HUP").await;
        let replacing = async {
            while presented(row).await != der(&third.certificate) {
                sleep(LOOK).await;
            }
        };
        timeout(TEST_TIMEOUT, replacing).await.unwrap();
    })
    .await;
}

fn issue(row: &Row) -> Identity {
    row.door.tls.as_ref().unwrap().identity(&["localhost"])
}

/// Replaces the files of the gateway.
fn write(row: &Row, certificate: &str, key: &str) {
    row.gateway.settings().file("tls.key", key);
    row.gateway.settings().file("tls.crt", certificate);
}

fn der(pem: &str) -> Vec<u8> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    certificate.to_vec()
}

/// The certificate that a new client gets.
async fn presented(row: &Row) -> Vec<u8> {
    let stream = TcpStream::connect(row.gateway.address()).await.unwrap();
    let config = row.door.tls.as_ref().unwrap().client(&[]);
    let name = ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await.unwrap();
    let (_stream, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].to_vec()
}
