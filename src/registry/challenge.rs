//! `WWW-Authenticate`: what a registry wants to be shown (RFC 9110, 11.6.1; the distribution project's token protocol).

use http_auth::ChallengeParser;

/// A way of proving oneself that we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Fetch a token from `realm` and show that.
    Bearer {
        /// URL of the token service; not checked yet.
        realm: String,
        /// What the token service calls the registry.
        service: Option<String>,
    },
    /// Show user and password to the registry itself.
    Basic,
}

/// Reads all values of the header and picks the best challenge in them: Bearer before Basic.
pub(super) fn choose<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        // What comes before a syntax error still counts; what comes after cannot be told apart any more.
        for challenge in ChallengeParser::new(header).map_while(Result::ok) {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer { realm, service: parameter("service") });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) }
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull""#;
        assert_eq!(choose([hub]), Some(bearer("https://auth.docker.io/token", Some("registry.docker.io"))));
        assert_eq!(choose([r#"bearer Realm="https://h/t" , SERVICE=h"#]), Some(bearer("https://h/t", Some("h"))));
        assert_eq!(choose([r#"Bearer realm="https://h/t\"x""#]), Some(bearer("https://h/t\"x", None)));
        assert_eq!(choose([r#"Basic realm="h""#]), Some(Challenge::Basic));
        assert_eq!(choose([r#"Basic realm="h", Bearer realm="https://h/t""#]), Some(bearer("https://h/t", None)));
        assert_eq!(choose([r#"Basic realm="h""#, r#"Bearer realm="https://h/t""#]), Some(bearer("https://h/t", None)));
        assert_eq!(choose([r#"Negotiate, Basic realm="h""#]), Some(Challenge::Basic));
    }

    #[test]
    fn the_rest_is_no_challenge() {
        for nothing in [
            "",
            "Bearer",
            r#"Bearer service="h""#,
            r#"Bearer realm="""#,
            "Digest realm=x",
            "=,=,=",
            "\"",
            "Bearer realm=\"x",
        ] {
            assert_eq!(choose([nothing]), None, "{nothing}");
        }
        assert_eq!(choose([]), None);
    }

    proptest! {
        #[test]
        fn nothing_upsets_it(header in "[ -~\t\u{80}-\u{ff}]{0,80}") {
            let _ = choose([header.as_str()]);
            let _ = choose([format!("Bearer realm=\"{header}").as_str()]);
        }
    }
}
