//! Uploads by curl that get an early answer. curl 7.88 loses an answer if the reset of its HTTP/2
//! stream arrives together with the answer.

use std::path::Path;

use tokio::process::Command;

use crate::support::certificates::Authority;
use crate::support::gateway::{Process, Settings};
use crate::support::program::installed;
use crate::support::provider::StandIn;
use crate::support::scene::{ROUTES, TLS_ORIGIN};
use crate::support::upstream::{Answer, RecordingUpstream};

/// The size of an upload that `body_mib = 1` forbids, and of an upload that it allows.
const UPLOADS: [usize; 2] = [2_000_000, 1_000_000];

const ROUNDS: usize = 20;

#[tokio::test]
async fn s_30_curl_gets_every_early_answer() {
    let authority = Authority::new();
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    app.answer_by(|_request| Answer::with(418, &[], "early").early().then_close());
    let settings = Settings::new(TLS_ORIGIN, &provider.url(), &app.url());
    let settings = settings.with(ROUTES).tls(&authority);
    let ca = settings.file("ca.pem", &authority.pem());
    let [large, small] = UPLOADS.map(|size| settings.file(&size.to_string(), &"x".repeat(size)));
    let gateway = Process::start_quietly(settings.server("body_mib = 1")).await;
    let address = format!("localhost:443:{}", gateway.address());
    for version in ["--http2", "--http1.1"] {
        for (path, upload, status) in [
            ("/upload", &large, "401"),
            ("/public/upload", &large, "413"),
            ("/public/upload", &small, "418"),
        ] {
            for round in 0..ROUNDS {
                let mut curl = Command::new(installed(Path::new("/usr/bin/curl")));
                curl.args(["--silent", "--show-error", "--max-time", "30", version])
                    .args(["--cacert", &ca, "--connect-to", &address])
                    .args([
                        "--header",
                        "Accept: application/json",
                        "--header",
                        "Expect:",
                    ])
                    .args(["--write-out", "%{http_code}", "--output", "/dev/null"])
                    .args(["--data-binary", &format!("@{upload}")])
                    .arg(format!("{TLS_ORIGIN}{path}"));
                let output = curl.output().await.unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                let error = String::from_utf8_lossy(&output.stderr);
                let context = format!("{version} {path} {round}: {said} {error}");
                assert!(output.status.success(), "{context}");
                assert_eq!(said, status, "{context}");
            }
        }
    }
}
