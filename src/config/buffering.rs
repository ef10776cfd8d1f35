//! Checks the settings of the buffers for slow clients.

use std::path::Path;

use super::listening::ServerSection;
use super::section::Reader;
use crate::access::{BufferSettings, Route, RouteTable};
use crate::gateway::SpillSettings;

/// Returns the settings for bodies in files. Refuses a folder in which the gateway cannot create a
/// file. Returns `None` if there is no folder, or if the folder is refused.
pub(super) fn spill(server: &ServerSection, reader: &mut Reader<'_>) -> Option<SpillSettings> {
    let Some(folder) = &server.spill_dir else {
        if server.spill_mib.is_some() {
            reader.note("server.spill_mib", "has no effect without server.spill_dir");
        }
        return None;
    };
    let problem = match std::fs::metadata(folder) {
        Err(error) => Some(error.to_string()),
        Ok(metadata) if !metadata.is_dir() => Some("it is not a folder".to_owned()),
        Ok(_) => {
            let created = tempfile::tempfile_in(folder);
            created.err().map(|error| error.to_string())
        }
    };
    if let Some(problem) = problem {
        let reason = format!("Sidegate cannot create files in this folder: {problem}");
        reader.note("server.spill_dir", reason);
        return None;
    }
    Some(SpillSettings {
        folder: Path::new(folder).into(),
        bytes: server.spill_bytes(),
        // The descriptors that are left determine the number; see `Config::fitted`.
        files: usize::MAX,
    })
}

/// Refuses buffer settings that have no effect, and buffer sizes that are too large for the
/// budgets.
pub(super) fn check_buffers(
    routes: &RouteTable,
    server: Option<&ServerSection>,
    reader: &mut Reader<'_>,
) {
    let has_folder = server.is_some_and(|server| server.spill_dir.is_some());
    let mut needs_folder = false;
    for route in routes.iter().filter(|route| route.has_app()) {
        let buffers = route.buffers();
        needs_folder |= buffers.request_spill > 0 || buffers.answer_spill > 0;
        let refused = useless(route, buffers)
            .or_else(|| without_folder(buffers).filter(|_refused| !has_folder))
            .or_else(|| without_memory(buffers, server?))
            .or_else(|| too_large(buffers, server?));
        if let Some((name, reason)) = refused {
            let key = format!("routes.{}.buffers.{name}", route.index());
            reader.note(&key, reason);
        }
    }
    if has_folder && !needs_folder {
        let reason = "no route uses files; write request_spill_mib or answer_spill_mib into the \
                      [routes.buffers] of a route, or leave `spill_dir` out";
        reader.note("server.spill_dir", reason);
    }
}

/// The name of a key in `buffers`, and the reason why its value is refused.
type Refused = (&'static str, String);

/// Returns the first buffer setting that has no effect on `route`, if there is one.
fn useless(route: &Route, buffers: BufferSettings) -> Option<Refused> {
    let refuse = |name, reason: &str| Some((name, reason.to_owned()));
    let default = BufferSettings::default();
    if route.is_stream() {
        for (name, is_set) in [
            ("whole_request", buffers.whole_request),
            ("request_kib", buffers.request != default.request),
            ("request_spill_mib", buffers.request_spill > 0),
        ] {
            if is_set {
                let reason = "no request is buffered here, because stream = true";
                return refuse(name, &format!("{reason}; leave `{name}` out"));
            }
        }
    }
    if buffers.whole_request && route.speaks_http2() {
        let reason = "the client of a gRPC call may wait for an answer before it sends the rest of \
                      the call, so the app of this route (protocol = \"http2\") must get requests \
                      while they arrive; leave `whole_request` out";
        return refuse("whole_request", reason);
    }
    if buffers.request == 0 && (buffers.whole_request || buffers.request_spill > 0) {
        let reason = "must not be 0 on a route with whole_request or request_spill_mib, because a \
                      body is in memory before it is in a file";
        return refuse("request_kib", reason);
    }
    if buffers.answer == 0 && buffers.answer_spill > 0 {
        let reason = "must not be 0 on a route with answer_spill_mib, because an answer is in \
                      memory before it is in a file";
        return refuse("answer_kib", reason);
    }
    for (name, file, kib, memory) in [
        (
            "request_spill_mib",
            buffers.request_spill,
            "request_kib",
            buffers.request,
        ),
        (
            "answer_spill_mib",
            buffers.answer_spill,
            "answer_kib",
            buffers.answer,
        ),
    ] {
        if file > 0 && file <= memory {
            return refuse(name, &format!("must be larger than {kib}"));
        }
    }
    None
}

/// Returns a setting that needs `server.spill_dir`, or `None` if no setting needs the folder.
fn without_folder(buffers: BufferSettings) -> Option<Refused> {
    let reason = "needs server.spill_dir, the folder for the files";
    let sizes = [
        ("request_spill_mib", buffers.request_spill),
        ("answer_spill_mib", buffers.answer_spill),
    ];
    let set = sizes.into_iter().find(|(_name, size)| *size > 0);
    set.map(|(name, _size)| (name, reason.to_owned()))
}

/// Returns the key of a buffer size that has no effect, and the reason. The size has no effect if
/// `server.buffer_mib` is 0 and the buffer has no file. A size that has its default is accepted.
fn without_memory(buffers: BufferSettings, server: &ServerSection) -> Option<Refused> {
    if server.buffer_bytes() > 0 {
        return None;
    }
    let default = BufferSettings::default();
    let sizes = [
        (
            "request_kib",
            buffers.request,
            default.request,
            buffers.request_spill,
        ),
        (
            "answer_kib",
            buffers.answer,
            default.answer,
            buffers.answer_spill,
        ),
    ];
    let is_useless =
        |size: usize, default: usize, file: usize| size > 0 && size != default && file == 0;
    let mut useless = (sizes.into_iter())
        .filter(|(_name, size, default, file)| is_useless(*size, *default, *file));
    let (name, ..) = useless.next()?;
    let reason = "has no effect, because server.buffer_mib = 0 leaves no memory for buffers";
    Some((name, format!("{reason}; leave `{name}` out")))
}

/// Returns the key of a buffer size that is too large for the budget of one client, and the reason.
/// One client gets at most half of a budget.
fn too_large(buffers: BufferSettings, server: &ServerSection) -> Option<Refused> {
    let half = server.spill_bytes() / 2;
    let sizes = [
        ("request_spill_mib", buffers.request_spill),
        ("answer_spill_mib", buffers.answer_spill),
    ];
    let large = sizes.into_iter().find(|(_name, size)| *size > half);
    if let Some((name, _size)) = large {
        let reason = "must be at most half of server.spill_mib, because one client gets at most \
                      half of the space";
        return Some((name, reason.to_owned()));
    }
    // The memory of a buffer is a little larger than its content.
    let memory = server.buffer_bytes();
    let in_memory = buffers.whole_request && buffers.request_spill == 0;
    if in_memory && buffers.request > memory / 4 {
        let reason = "must be at most a quarter of server.buffer_mib on a route with whole_request";
        return Some(("request_kib", reason.to_owned()));
    }
    if memory == 0 {
        return None;
    }
    let sizes = [
        ("request_kib", buffers.request),
        ("answer_kib", buffers.answer),
    ];
    let large = sizes.into_iter().find(|(_name, size)| *size > memory / 2);
    large.map(|(name, _size)| {
        let reason = "must be at most half of server.buffer_mib, because one client gets at most half \
                      of the memory";
        (name, reason.to_owned())
    })
}
