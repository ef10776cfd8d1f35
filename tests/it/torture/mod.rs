//! Refreshes with a provider that often fails.

mod answers;
mod replica;
mod report;
mod store;
mod storm;
mod visitor;
