//! The number of descriptors that the process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Returns the number of descriptors that the process may open after
/// [`raise_descriptor_limit`]. Returns `None` if the number is not limited.
pub(crate) fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Raises the soft limit to the hard limit. Many systems set a soft limit of 1,024 for programs that
/// use `select`, and a much larger hard limit.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            %error,
            current,
            maximum,
            "The limit of descriptors cannot be raised"
        );
    }
}
