//! Programs that `tests/run` installs, each with its own folder.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The longest time for a start while other tests run.
const TEST_TIMEOUT: Duration = Duration::from_mins(3);

/// A path in the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The path of a program that `tests/run` has installed.
///
/// # Panics
///
/// Panics if the program is not installed, because a test that cannot run has failed.
pub(crate) fn installed(path: &Path) -> &Path {
    assert!(
        path.exists(),
        "{} is missing: run tests/run",
        path.display()
    );
    path
}

/// Python with the packages of `tests/requirements.txt`.
pub(crate) fn python() -> Command {
    Command::new(installed(&project("tests/.cache/venv/bin/python")))
}

/// Node.js.
fn node() -> Command {
    Command::new(installed(&project("tests/.cache/node/bin/node")))
}

/// Java with the libraries of Tomcat.
fn java() -> Command {
    let libraries = format!("{}/*", project("tests/.cache/spring/lib").display());
    let java = Path::new("/usr/lib/jvm/default-java/bin/java");
    let mut command = Command::new(installed(java));
    command
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-cp", &libraries]);
    command
}

/// Starts the app in a file of `tests/peers`. The app prints `ready ADDRESS`.
pub(crate) async fn peer(file: &str, arguments: &[&str]) -> Program {
    let path = project("tests/peers").join(file);
    let prepare = |_: &Path| {
        let mut command = match file.rsplit('.').next() {
            Some("mjs") => node(),
            Some("java") => java(),
            _ => python(),
        };
        command.arg(&path).args(arguments);
        command
    };
    Program::start("ready ", prepare).await
}

/// nginx with this content of its block `http`, which listens at `address`.
pub(crate) fn nginx(http: &str, folder: &Path, address: SocketAddr) -> Command {
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {name};\n"))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
         events {{ }}\nhttp {{ access_log off;\n{folders}{http}}}\n"
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    let program = installed(Path::new("/usr/sbin/nginx")).display();
    let at = folder.display();
    let command = format!("{program} -p {at} -e stderr -c nginx.conf");
    announced(&command, folder, address)
}

/// A command whose errors are part of its standard output, for programs that print their address
/// as an error.
pub(crate) fn with_errors_in_output(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(program);
    command
}

/// Runs `command` and prints the address as soon as the address accepts connections.
pub(crate) fn announced(command: &str, folder: &Path, address: SocketAddr) -> Command {
    let port = address.port();
    let script = format!(
        "(until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done; \
         echo listening {address}) & exec {command} 1>&2"
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(folder);
    bash
}

/// An address with a port that is free now.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Appends a line to a file whose lines `tests/run` prints.
pub(crate) fn record(name: &str, columns: &[&str]) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let file = OpenOptions::new().create(true).append(true).open(path);
    // The line is written by one call, because other tests append to the same file.
    let line = format!("{}\n", columns.join("\t"));
    file.unwrap().write_all(line.as_bytes()).unwrap();
}

/// One program. The program stops when its value is dropped.
pub(crate) struct Program {
    address: String,
    _process: Child,
    folder: TempDir,
}

impl Program {
    /// Starts the program that `prepare` creates for a folder. Waits for the output line with
    /// `before_address` and the address.
    ///
    /// # Panics
    ///
    /// Panics if the program does not start.
    pub(crate) async fn start(before_address: &str, prepare: impl Fn(&Path) -> Command) -> Self {
        // Some servers do not accept port 0. Such a server gets a port that was free, but another
        // test may have taken the port in the meantime.
        let mut said = String::new();
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("log");
            let mut command = prepare(folder.path());
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(File::create(&log).unwrap())
                .kill_on_drop(true);
            let mut process = command.spawn().unwrap();
            let starting = timeout(TEST_TIMEOUT, address(&mut process, before_address)).await;
            said = fs::read_to_string(&log).unwrap();
            match starting {
                Ok(Ok(address)) => {
                    return Self {
                        address,
                        _process: process,
                        folder,
                    };
                }
                Ok(Err(printed)) => said.push_str(&printed),
                Err(_) => {}
            }
        }
        panic!("the program does not start:\n{said}")
    }

    /// The address that the program has printed.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The path of a file in the folder of the program.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// The address that the program prints, or the whole output of a program that ended without an
/// address.
async fn address(process: &mut Child, before: &str) -> Result<String, String> {
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut printed = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, address)) = line.split_once(before) {
            // The log must be read, because the program blocks when the pipe is full.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address.trim().to_owned());
        }
        printed.extend([&line, "\n"]);
    }
    Err(printed)
}
