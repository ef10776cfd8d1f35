//! Real proxies with the configurations that `sidegate snippet` prints.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::gateway::PROGRAM;
use crate::support::program::{self, announced, free_address, installed, project};
use crate::support::scene::Scene;

/// The address of the proxy in a snippet.
const LISTEN: &str = "127.0.0.1:8000";

/// A proxy in front of an app.
pub(super) struct Front {
    pub(super) name: &'static str,
    /// The kind in `auth_check.proxies`.
    pub(super) kind: &'static str,
    /// Whether the proxy forwards an answer with the status 503.
    pub(super) forwards_errors: bool,
    pub(super) prepare: fn(&Scene, &Path) -> Command,
}

pub(super) const NGINX: Front = Front {
    name: "nginx",
    kind: "nginx",
    forwards_errors: true,
    prepare: nginx,
};

pub(super) const CADDY: Front = Front {
    name: "Caddy",
    kind: "caddy",
    forwards_errors: true,
    prepare: caddy,
};

pub(super) const TRAEFIK: Front = Front {
    name: "Traefik",
    kind: "traefik",
    forwards_errors: true,
    prepare: traefik,
};

pub(super) const HAPROXY: Front = Front {
    name: "HAProxy",
    kind: "haproxy",
    forwards_errors: true,
    prepare: haproxy,
};

pub(super) const BROKEN_HAPROXY: Front = Front {
    prepare: broken_haproxy,
    ..HAPROXY
};

pub(super) const ENVOY: Front = Front {
    name: "Envoy-gRPC",
    kind: "envoy",
    forwards_errors: true,
    prepare: envoy_grpc,
};

pub(super) const ENVOY_HTTP: Front = Front {
    name: "Envoy-HTTP",
    kind: "envoy",
    // Envoy takes each answer with a status of 500 or more for a failure of the auth check.
    forwards_errors: false,
    prepare: envoy_http,
};

/// A proxy that waits only two seconds for the answer to an auth check.
pub(super) const HANGING_NGINX: Front = Front {
    prepare: |scene, folder| {
        let (from, to) = ("access_log off;", "access_log off; proxy_read_timeout 2s;");
        edited(nginx(scene, folder), &folder.join("nginx.conf"), (from, to))
    },
    ..NGINX
};

/// A proxy that waits only two seconds for the answer to an auth check.
pub(super) const HANGING_HAPROXY: Front = Front {
    prepare: |scene, folder| {
        let (from, to) = ("timeout = 30000", "timeout = 2000");
        let path = folder.join("sidegate.lua");
        edited(haproxy(scene, folder), &path, (from, to))
    },
    ..HAPROXY
};

/// A proxy that waits only two seconds for the answer to an auth check.
pub(super) const HANGING_ENVOY: Front = Front {
    prepare: |scene, folder| {
        let (from, to) = ("timeout: 30s", "timeout: 2s");
        let path = folder.join("envoy.yaml");
        edited(envoy_grpc(scene, folder), &path, (from, to))
    },
    ..ENVOY
};

/// Returns the text that `sidegate snippet` prints for these settings.
pub(super) fn snippet(name: &str, settings: &Path, listen: &str) -> String {
    let output = std::process::Command::new(PROGRAM)
        .args(["snippet", name, "--listen", listen, "--config"])
        .arg(settings)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the snippet for the gateway of the scene. `listen` replaces the address in the snippet at
/// which the proxy listens.
fn printed(name: &str, scene: &Scene, (from, to): (&str, &str)) -> String {
    let settings = scene.gateway.settings().write();
    let text = snippet(name, &settings, &scene.gateway.address().to_string());
    assert!(text.contains(from), "{name}: {from} is not in {text}");
    let text = text.replace(from, to);
    let app = scene.app.address();
    let app = [app.to_string(), format!("port_value: {}", app.port())];
    let has_app = app.iter().any(|app| text.contains(app));
    assert!(has_app || name == "haproxy-lua", "{name}: {text}");
    text
}

fn address() -> SocketAddr {
    free_address().parse().unwrap()
}

/// The path of a program of a Python package.
fn packaged(name: &str) -> PathBuf {
    let program = project("tests/.cache/venv/bin").join(name);
    installed(&program).to_owned()
}

fn nginx(scene: &Scene, folder: &Path) -> Command {
    let address = address();
    let server = printed("nginx", scene, (LISTEN, &address.to_string()));
    program::nginx(&server, folder, address)
}

fn caddy(scene: &Scene, folder: &Path) -> Command {
    let address = address();
    // The site is for every host, and listens at one address.
    let site = format!("http://:{} {{\n\tbind 127.0.0.1", address.port());
    let site = printed("caddy", scene, (&format!("http://{LISTEN} {{"), &site));
    let text = format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}");
    fs::write(folder.join("Caddyfile"), text).unwrap();
    let program = packaged("caddy");
    let command = format!("{} run --config Caddyfile", program.display());
    announced(&command, folder, address)
}

fn traefik(scene: &Scene, folder: &Path) -> Command {
    let address = address();
    // The address of Traefik is not a part of the snippet.
    let text = printed("traefik", scene, ("http:", "http:"));
    fs::write(folder.join("dynamic.yaml"), text).unwrap();
    let program = packaged("traefik");
    let command = format!(
        "{} --entrypoints.web.address={address} --providers.file.filename=dynamic.yaml",
        program.display()
    );
    announced(&command, folder, address)
}

fn haproxy(scene: &Scene, folder: &Path) -> Command {
    let address = address();
    let text = printed("haproxy", scene, (LISTEN, &address.to_string()));
    fs::write(folder.join("haproxy.cfg"), text).unwrap();
    let lua = printed("haproxy-lua", scene, ("core.", "core."));
    fs::write(folder.join("sidegate.lua"), lua).unwrap();
    let program = installed(Path::new("/usr/sbin/haproxy")).display();
    announced(&format!("{program} -db -f haproxy.cfg"), folder, address)
}

/// HAProxy with a Lua action that fails before it has asked the gateway.
fn broken_haproxy(scene: &Scene, folder: &Path) -> Command {
    let asks = "    local answer = ask(txn)\n";
    let broken = format!("    if txn.f:path() == \"/public/broken\" then error(\"x\") end\n{asks}");
    let path = folder.join("sidegate.lua");
    edited(haproxy(scene, folder), &path, (asks, &broken))
}

/// Replaces a part of a file that `command` reads.
fn edited(command: Command, path: &Path, (from, to): (&str, &str)) -> Command {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
    command
}

fn envoy_grpc(scene: &Scene, folder: &Path) -> Command {
    envoy("envoy", scene, folder)
}

fn envoy_http(scene: &Scene, folder: &Path) -> Command {
    envoy("envoy-http", scene, folder)
}

fn envoy(name: &str, scene: &Scene, folder: &Path) -> Command {
    let address = address();
    let port = format!("port_value: {}}}", address.port());
    let text = printed(name, scene, ("port_value: 8000}", &port));
    fs::write(folder.join("envoy.yaml"), text).unwrap();
    let program = packaged("envoy");
    let command = format!(
        "{} -c envoy.yaml --disable-hot-restart --concurrency 1 --log-level warn",
        program.display()
    );
    announced(&command, folder, address)
}
