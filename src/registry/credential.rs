//! Secrets that prove who asks, and where each of them came from.
//!
//! A secret never shows in `Debug`, `Display` or a log; its origin does, so that an error can say which one was tried.

use std::fmt;
use std::path::PathBuf;

/// What people know a credential by that is given with an image.
pub(super) const GIVEN: &str = "registry_auth";

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A user name and password that the caller gives with the image (`registry_auth` of a workflow). The name is not shown
/// either: it may come from a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name at the registry.
    pub user: String,
    /// The password or access token.
    pub password: Secret,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// What a registry or its token service is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// For the token service, or for the registry itself where it wants Basic.
    Password(Login),
    /// A refresh token, for the token service only (docker's `identitytoken`).
    Identity(Secret),
    /// A finished bearer token (docker's `registrytoken`).
    Bearer(Secret),
}

/// Where a credential was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Given by the caller.
    Caller,
    /// An entry of an auth file.
    File(PathBuf),
    /// A helper program that an auth file names.
    Helper {
        /// What follows `docker-credential-`.
        name: String,
        /// The file that names it.
        file: PathBuf,
    },
}

/// A proof with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) proof: Proof,
    pub(super) origin: Origin,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proof {
            Proof::Password(_) if self.origin == Origin::Caller => f.write_str("the credential")?,
            Proof::Password(login) => write!(f, "the credential of user `{}`", login.user.escape_debug())?,
            Proof::Identity(_) => f.write_str("the identity token")?,
            Proof::Bearer(_) => f.write_str("the registry token")?,
        }
        match &self.origin {
            Origin::Caller => write!(f, " from `{GIVEN}`"),
            Origin::File(path) => write!(f, " from `{}`", path.display()),
            Origin::Helper { name, file } => {
                write!(f, " from `docker-credential-{name}` (named in `{}`)", file.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_where_it_comes_from_and_never_what_it_is() {
        let login = Login { user: "ann".to_owned(), password: Secret::new("hunter2") };
        let credential = Credential { proof: Proof::Password(login), origin: Origin::File("/a/auth.json".into()) };
        assert_eq!(credential.to_string(), "the credential of user `ann` from `/a/auth.json`");
        let helper = Origin::Helper { name: "pass".to_owned(), file: "/c.json".into() };
        let token = Credential { proof: Proof::Identity(Secret::new("hunter2")), origin: helper };
        assert_eq!(token.to_string(), "the identity token from `docker-credential-pass` (named in `/c.json`)");
        let login = Login { user: "hunter2".to_owned(), password: Secret::new("hunter2") };
        let given = Credential { proof: Proof::Password(login), origin: Origin::Caller };
        assert_eq!(given.to_string(), "the credential from `registry_auth`");
        assert!(!format!("{credential:?}{token:?}{given:?}").contains("hunter2"));
    }
}
