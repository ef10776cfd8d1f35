//! Load of streams: WebSocket messages, large bodies, and idle sockets.

use std::cell::Cell;
use std::io::{Read as _, Write as _, stdin};
use std::net::TcpStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::frames::{self, Frame};
use super::{Answer, Connection, address, read};

/// The size of one write or read of a large body.
const PIECE: usize = 256 * 1024;
/// Every client has to choose keys that cannot be guessed, but no load needs this protection.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Args)]
pub(crate) struct Messages {
    #[arg(long)]
    connections: usize,
    /// The content of a message, in bytes
    #[arg(long)]
    size: usize,
    #[arg(long)]
    seconds: f64,
    port: u16,
    /// The file with the handshake
    request: PathBuf,
}

#[derive(Args)]
pub(crate) struct Sockets {
    #[arg(long)]
    count: usize,
    port: u16,
    /// The file with the handshake
    request: PathBuf,
}

#[derive(Args)]
pub(crate) struct Transfer {
    /// The size of the request's body
    #[arg(long, default_value_t = 0)]
    upload: u64,
    /// The size of the answer's body
    #[arg(long, default_value_t = 0)]
    download: u64,
    port: u16,
    /// The file with the head of the request
    request: PathBuf,
}

/// Opens a WebSocket.
async fn open(port: u16, handshake: &[u8]) -> Connection {
    let mut connection = Connection::open(port).await;
    let (status, _head) = connection.ask(handshake).await;
    assert_eq!(status, 101, "no WebSocket was opened");
    connection.buffer.clear();
    connection
}

impl Connection {
    /// Sends a message, and waits for its echo.
    async fn echo(&mut self, frame: &[u8], content: &[u8]) {
        self.stream.write_all(frame).await.expect("a taken message");
        let echoed = loop {
            let count = self.stream.read_buf(&mut self.buffer).await;
            assert!(count.expect("an echo") > 0, "the WebSocket was closed");
            if let Some(echoed) = Frame::read(&self.buffer) {
                break echoed;
            }
        };
        let same = self.buffer.get(echoed.content..) == Some(content);
        assert!(same, "the echo is not the message");
        self.buffer.clear();
    }
}

impl Messages {
    /// The number of echoed messages.
    pub(crate) async fn run(&self) -> Value {
        let handshake = read(&self.request);
        let content: Rc<[u8]> = (0..self.size).map(|number| number as u8).collect();
        let mut frame = Vec::new();
        frames::write(&content, Some(KEY), &mut frame);
        let frame: Rc<[u8]> = frame.into();
        let echoed = Rc::new(Cell::new(0_u64));
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut tasks = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let mut connection = open(self.port, &handshake).await;
            let (content, frame) = (Rc::clone(&content), Rc::clone(&frame));
            let echoed = Rc::clone(&echoed);
            tasks.push(tokio::task::spawn_local(async move {
                while Instant::now() < end {
                    connection.echo(&frame, &content).await;
                    echoed.set(echoed.get() + 1);
                }
            }));
        }
        for task in tasks {
            task.await.expect("good echoes");
        }
        json!({"requests": echoed.get()})
    }
}

impl Sockets {
    /// One line says when all sockets are open.
    pub(crate) async fn run(&self) -> Value {
        let handshake = read(&self.request);
        let mut opened = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            opened.push(open(self.port, &handshake).await);
        }
        println!("{}", json!({"open": opened.len()}));
        let waiting = tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new()));
        waiting.await.expect("a thread").expect("an input");
        json!({"open": opened.len()})
    }
}

impl Transfer {
    /// Sends and reads both bodies.
    pub(crate) fn run(&self) -> Value {
        let mut stream = TcpStream::connect(address(self.port)).expect("a connection");
        stream
            .write_all(&read(&self.request))
            .expect("a taken head");
        let mut piece = vec![b'u'; PIECE];
        let mut left = self.upload as usize;
        while left > 0 {
            let sent = left.min(PIECE);
            let sending = piece.get(..sent).expect("a piece");
            stream.write_all(sending).expect("a taken body");
            left -= sent;
        }
        let mut have = 0;
        let answer = loop {
            let count = stream.read(piece.get_mut(have..).expect("room"));
            have += count.expect("an answer");
            if let Some(answer) = Answer::read(piece.get(..have).expect("what came")) {
                break answer;
            }
        };
        assert_eq!(answer.status, 200, "an answer is wrong");
        let expected = answer.head + self.download as usize;
        assert!(
            self.download == 0 || answer.end == expected,
            "a length is wrong"
        );
        while have < answer.end {
            let count = stream.read(&mut piece).expect("a body");
            assert!(count > 0, "the connection was closed");
            have += count;
        }
        json!({"requests": 1})
    }
}
