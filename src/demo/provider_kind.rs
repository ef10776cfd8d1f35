//! The kinds of server that the embedded authorization server imitates.

/// The kind of server to imitate. The two versions of Passport send different error bodies and
/// status codes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ProviderKind {
    /// An OpenID Provider with metadata, keys, ID tokens, userinfo, and the standard errors.
    OpenId,
    /// Passport 12 on league/oauth2-server 8.5.
    Passport12,
    /// Passport 13 on league/oauth2-server 9.3.
    #[default]
    Passport13,
}

impl ProviderKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::OpenId, Self::Passport12, Self::Passport13];

    /// Returns the name that this kind of provider has on the command line.
    ///
    /// ```
    /// use sidegate::demo::ProviderKind;
    ///
    /// assert_eq!(ProviderKind::default().name(), "passport-13");
    /// ```
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenId => "oidc",
            Self::Passport12 => "passport-12",
            Self::Passport13 => "passport-13",
        }
    }

    /// Returns the name of the gateway's profile for this kind of server.
    pub const fn profile(self) -> &'static str {
        match self {
            Self::OpenId => "oidc",
            Self::Passport12 => "laravel-passport-12",
            Self::Passport13 => "laravel-passport-13",
        }
    }
}
