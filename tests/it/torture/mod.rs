//! Refreshes with a provider that often fails.

mod answers;
mod cluster;
mod replica;
mod report;
mod rolling;
mod storm;
mod visitor;
