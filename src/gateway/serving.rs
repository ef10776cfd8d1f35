//! The handler that the server calls for each connection and each request.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use http::Response;
use http::request::Parts;

use super::record::Record;
use super::{Body, ClientConnection, Step, Worker};
use crate::server::{Connection, Handler, Refusal, RequestBody};
use crate::upstream::Owner;

impl Handler for Worker {
    type Body = Body;
    type PerConnection = ClientConnection;

    fn client(&self, peer: SocketAddr) -> Option<IpAddr> {
        let is_proxy = self.site.get().settings().is_proxy(peer.ip());
        (!is_proxy).then(|| peer.ip())
    }

    fn connection_opened(&self, connection: Connection) -> ClientConnection {
        ClientConnection::new(connection)
    }

    fn accepts_http2(&self, client_connection: &ClientConnection) -> bool {
        let site = self.site.get();
        let proxies = &site.settings().asking_proxies;
        proxies.may_call(client_connection.peer.address())
    }

    fn reserve_window(&self, client_connection: &ClientConnection, wanted: u32) -> u32 {
        let client = Owner::new(None, client_connection.peer.address());
        let wanted = usize::try_from(wanted).unwrap_or_default();
        let window = self.site.get().window(client, wanted);
        let bytes = u32::try_from(window.bytes()).unwrap_or_default();
        client_connection.window.replace(Some(window));
        bytes
    }

    fn handle(
        &self,
        client_connection: &ClientConnection,
        parts: Parts,
        body: RequestBody,
    ) -> impl Future<Output = Response<Body>> {
        let (site, client) = (self.site.get(), client_connection.peer.address());
        if let Some(answer) = site.answer_probe(&parts) {
            return Step::answered(answer).finish(self);
        }
        let id = self.request_id(&site, client, &parts.headers);
        let record = Record::new(site, (client, id), &parts, &body);
        self.process(client_connection, parts, body, record)
            .finish(self)
    }

    fn refuse_head(
        &self,
        client_connection: &ClientConnection,
        parts: Parts,
        body: RequestBody,
    ) -> Response<Body> {
        self.refuse_large_head(client_connection, parts, &body)
    }

    fn connection_refused(
        &self,
        client_connection: &ClientConnection,
        refusal: Refusal,
        error: &dyn std::error::Error,
        head: Option<&Parts>,
    ) {
        self.report_refusal(client_connection, refusal, error, head);
    }

    fn drain_begins(&self) {
        self.streams.drain_begins();
    }

    fn drain_ends(&self) {
        self.site.drain_ends();
    }
}
