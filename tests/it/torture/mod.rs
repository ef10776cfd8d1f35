//! Tokens under torture: what must hold whatever the provider does.

mod answers;
mod report;
mod storm;
mod visitor;
