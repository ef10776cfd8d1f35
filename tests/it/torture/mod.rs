//! Refreshes with a provider that often fails.

mod answers;
mod report;
mod storm;
mod visitor;
