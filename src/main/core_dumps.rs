//! Core dumps. A core dump of the gateway contains the tokens of its users and the secrets of its
//! clients.

use rustix::io::Result;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Whether the process can leave a core dump.
pub(super) struct CoreDumps {
    /// The limit for core files with which the process was started.
    before: Rlimit,
    forbidden: Result<()>,
}

impl CoreDumps {
    /// Forbids core dumps. Without the capability `CAP_SYS_PTRACE`, other processes of the same user
    /// then cannot read the memory of this process (`PR_SET_DUMPABLE` in prctl(2)).
    pub(super) fn forbid() -> Self {
        let before = getrlimit(Resource::Core);
        let forbidden = set_dumpable_behavior(DumpableBehavior::NotDumpable).and_then(|()| {
            let none = Rlimit {
                current: Some(0),
                maximum: before.maximum,
            };
            setrlimit(Resource::Core, none)
        });
        Self { before, forbidden }
    }

    /// The error if the operating system did not forbid core dumps.
    pub(super) fn forbidden(&self) -> Result<()> {
        self.forbidden
    }

    /// Allows core dumps again.
    pub(super) fn allow(&self) -> Result<()> {
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        setrlimit(Resource::Core, self.before)
    }
}
