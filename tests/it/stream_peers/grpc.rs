//! gRPC with the Python package `grpcio` at both ends.

use tokio::join;

use crate::long_answers::sign_out;
use crate::support::certificates::Authority;
use crate::support::program::{Program, record};
use crate::support::scene::{Scene, TLS_ORIGIN};

use super::{app, assert_same, cases, transcript};

const CLIENT: &str = "grpc_client";

/// A gateway with TLS in front of a gRPC app.
struct Grpc {
    scene: Scene,
    tls: Authority,
    /// The path of the certificate of `tls`.
    trusted: String,
}

impl Grpc {
    /// `/test.Echo/` is for all users who are signed in, `/admin.Echo/` is for one group.
    async fn new() -> (Self, Program) {
        let app = app("grpc_server", &[]).await;
        let routes = format!(
            "[upstreams.grpc]\nurl = \"{}\"\nprotocol = \"http2\"\n\
             [[routes]]\nprefix = \"/\"\nupstream = \"app\"\n\
             [[routes]]\nprefix = \"/test.Echo\"\nupstream = \"grpc\"\n\
             [[routes]]\nprefix = \"/admin.Echo\"\nupstream = \"grpc\"\n\
             access.any_of.groups = [\"admins\"]\nprovider = \"main\"\n",
            app.address()
        );
        let (scene, tls) = Scene::over_tls_with(&routes).await;
        let trusted = scene.gateway.settings().file("ca.pem", &tls.pem());
        let grpc = Self {
            scene,
            tls,
            trusted,
        };
        (grpc, app)
    }

    /// The `Cookie` field of a user.
    async fn cookie_of(&self, user: &str) -> String {
        self.scene.signed_in_over_tls(&self.tls, user).await.1
    }

    /// The reply of a method to an empty message, or the status of the call.
    async fn call(&self, service: &str, method: &str, cookie: &str) -> String {
        let gateway = self.scene.gateway.address().to_string();
        transcript(CLIENT, &[&gateway, service, &self.trusted, cookie, method]).await
    }
}

#[tokio::test]
async fn grpcio_makes_its_calls_as_if_there_were_no_gateway() {
    let (grpc, app) = Grpc::new().await;
    let cookie = grpc.cookie_of("alice").await;
    let gateway = grpc.scene.gateway.address().to_string();
    let app = app.address().trim_start_matches("http://");
    let directly = transcript(CLIENT, &[app, "test.Echo", "-", "-"]).await;
    let through = [&*gateway, "test.Echo", &grpc.trusted, &cookie];
    let through = transcript(CLIENT, &through).await;
    assert_same(&cases(&directly), &cases(&through));
    record("stream_peers.txt", &["gRPC", "grpcio"]);
}

#[tokio::test]
async fn grpcio_gets_the_gateways_own_answers_as_statuses() {
    let (grpc, app) = Grpc::new().await;
    let bob = grpc.cookie_of("bob").await;
    let said = grpc.call("test.Echo", "Metadata", "-").await;
    assert!(said.starts_with("UNAUTHENTICATED Sign in first"), "{said}");
    let said = grpc.call("admin.Echo", "Metadata", &bob).await;
    assert!(said.starts_with("PERMISSION_DENIED You may not"), "{said}");
    let metadata = grpc.call("test.Echo", "Metadata", &bob).await;
    let metadata: Vec<_> = metadata.lines().collect();
    assert!(metadata.contains(&"x-forwarded-user: bob"), "{metadata:?}");
    drop(app);
    let said = grpc.call("test.Echo", "Metadata", &bob).await;
    assert!(said.starts_with("UNAVAILABLE "), "{said}");
}

#[tokio::test]
async fn w_03_a_call_of_grpcio_ends_with_the_session() {
    let (grpc, _app) = Grpc::new().await;
    let (browser, alice) = grpc.scene.signed_in_over_tls(&grpc.tls, "alice").await;
    let bob = grpc.cookie_of("bob").await;
    let ending = async {
        let open = "sidegate_streams_open{route=\"/test.Echo\",kind=\"response\"}";
        grpc.scene.wait_for_figure(open, 1).await;
        sign_out(&browser, TLS_ORIGIN).await;
    };
    let (said, ()) = join!(grpc.call("test.Echo", "Wait", &alice), ending);
    assert!(said.starts_with("UNAUTHENTICATED "), "{said}");
    // The app has also received the end.
    assert_eq!(grpc.call("test.Echo", "Gone", &bob).await, "ended\n");
}
