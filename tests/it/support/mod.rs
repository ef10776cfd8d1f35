//! The kit: everything around a gateway that a test needs.

pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod form;
pub(crate) mod gateway;
pub(crate) mod h2;
pub(crate) mod jar;
pub(crate) mod killed;
pub(crate) mod line;
pub(crate) mod oauth;
pub(crate) mod openid;
pub(crate) mod pair;
pub(crate) mod person;
pub(crate) mod provider;
pub(crate) mod radicale;
pub(crate) mod raw;
pub(crate) mod scene;
pub(crate) mod servers;
pub(crate) mod torture;
pub(crate) mod upstream;
pub(crate) mod visit;
pub(crate) mod webdriver;
pub(crate) mod wire;
