//! What the operating system gives this process: how many open files, and no image of its memory.

use crate::settings::Account;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use std::sync::Arc;

/// Open files beside those of accounts: the connections to publish, to answer and for the strays, the log, the collector, the listener
/// and whoever reads its pages, and the runtime's own.
const BESIDE_ACCOUNTS: u64 = 64;

/// Keeps the process's memory, with keys, tokens and passwords in it, out of core dumps and from other processes of its user.
///
/// # Errors
/// When the kernel does not let it.
pub fn forbid_memory_images() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Raises the limit of open files as far as this process may, and returns it; `None` is no limit.
///
/// # Errors
/// When the kernel does not let it; the limit is then as it was.
pub fn raise_open_files() -> std::io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(current);
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

/// How many files all accounts together can need: for each command that is with a provider a connection, and for each account one to the
/// broker.
pub fn open_files_needed(accounts: &[Arc<Account>]) -> u64 {
    let of_account = |account: &Arc<Account>| u64::from(account.at_once()) + 1;
    accounts.iter().map(of_account).sum::<u64>() + BESIDE_ACCOUNTS
}

/// What is wrong with the limit of open files, and how to fix it.
pub fn too_few_open_files(limit: Option<u64>, accounts: &[Arc<Account>]) -> Option<String> {
    let needed = open_files_needed(accounts);
    let limit = limit.filter(|limit| *limit < needed)?;
    Some(format!(
        "this process may open {limit} files, and its {} accounts can need {needed} (max_in_flight + 1 each, and {BESIDE_ACCOUNTS}): \
         without them, calls fail and the broker cannot be reached again; raise the hard limit (LimitNOFILE=, ulimit -Hn, \
         --ulimit nofile=), or lower max_in_flight",
        accounts.len()
    ))
}
