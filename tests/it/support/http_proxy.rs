//! An HTTP proxy. Every host name leads to the same server, as if the proxy had resolved the name.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::wire::Head;

/// The proxy. The proxy stops when its value is dropped.
pub(crate) struct HttpProxy {
    address: SocketAddr,
    requests: Arc<watch::Sender<Vec<Head>>>,
    task: JoinHandle<()>,
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpProxy {
    /// Starts a proxy in front of the server `behind`. If `required` is given, requests must have
    /// this value of `Proxy-Authorization`.
    pub(crate) async fn start(behind: SocketAddr, required: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(watch::Sender::new(Vec::new()));
        let shared = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _peer)) = listener.accept().await {
                connections.spawn(forward(stream, behind, required, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first lines of all requests to the proxy.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests
            .borrow()
            .iter()
            .map(Head::start_line)
            .collect()
    }

    /// The heads of all requests to the proxy.
    pub(crate) fn requests(&self) -> Vec<Head> {
        self.requests.borrow().clone()
    }
}

async fn forward(
    mut client: TcpStream,
    behind: SocketAddr,
    required: Option<&'static str>,
    requests: Arc<watch::Sender<Vec<Head>>>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(client.read_u8().await?);
    }
    let head = Head { bytes };
    requests.send_modify(|requests| requests.push(head.clone()));
    if required.is_some_and(|value| head.value("proxy-authorization").as_deref() != Some(value)) {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                       Proxy-Authenticate: Basic realm=\"proxy\"\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(refusal.as_bytes()).await;
    }
    let line = head.start_line();
    let (method, target) = line.split_once(' ').unwrap();
    let mut server = TcpStream::connect(behind).await?;
    if method == "CONNECT" {
        let opened = "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";
        client.write_all(opened.as_bytes()).await?;
    } else {
        // The server gets the origin form of the target (RFC 9112 section 3.2.1).
        let path = target.splitn(4, '/').nth(3).unwrap();
        let rest = &head.bytes[line.len()..];
        server
            .write_all(format!("{method} /{path}").as_bytes())
            .await?;
        server.write_all(rest).await?;
    }
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
