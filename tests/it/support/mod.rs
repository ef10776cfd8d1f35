//! Tools for the tests: everything around a gateway.

pub(crate) mod browser;
pub(crate) mod browser_request;
pub(crate) mod certificates;
pub(crate) mod connection;
pub(crate) mod form;
pub(crate) mod gateway;
pub(crate) mod grpc;
pub(crate) mod h2;
pub(crate) mod jar;
pub(crate) mod killed;
pub(crate) mod limits;
pub(crate) mod oauth;
pub(crate) mod openid;
pub(crate) mod person;
pub(crate) mod program;
pub(crate) mod provider;
pub(crate) mod radicale;
pub(crate) mod raw;
pub(crate) mod scene;
pub(crate) mod servers;
pub(crate) mod socket;
pub(crate) mod torture;
pub(crate) mod two_providers;
pub(crate) mod upstream;
pub(crate) mod webdriver;
pub(crate) mod wire;
