//! Tokens: what a registry's token service gives for a credential, or for none.
//!
//! The protocol is the distribution project's (`spec/auth/token`, `spec/auth/oauth`): GET with Basic for user and
//! password, POST of a form for a refresh token. Whatever goes wrong is told; there is no silent second try without the
//! credential.

use std::sync::atomic::AtomicBool;

use reqwest::Url;
use serde_json::Value;

use super::credential::{Credential, Proof, Secret};
use super::error::RegistryError;
use super::failure::{Failure, is_success};
use super::hosts::host_of;
use super::retry::{Backoff, with_retries};
use super::transport::{Authorization, Get, Transport, read_bounded};
use crate::image::Observer;

/// Largest answer of a token service that is read.
const MAX_TOKEN_ANSWER_BYTES: u64 = 256 << 10;
/// What we call ourselves towards token services.
const CLIENT_ID: &str = "dockless";

/// What a token is asked for.
pub(super) struct Wanted<'a> {
    /// The token service; checked.
    pub(super) realm: Url,
    /// What it calls the registry.
    pub(super) service: Option<&'a str>,
    pub(super) repository: &'a str,
    /// For messages.
    pub(super) image: &'a str,
    pub(super) credential: Option<&'a Credential>,
    /// As whom we ask, for messages.
    pub(super) access: String,
}

/// Fetches a token that allows to pull the repository.
pub(super) async fn fetch(
    transport: &Transport,
    wanted: &Wanted<'_>,
    backoff: Backoff,
    observer: &dyn Observer,
) -> Result<Secret, RegistryError> {
    let realm = host_of(&wanted.realm);
    let answered = AtomicBool::new(false);
    let what = format!("token from `{realm}`");
    let body = with_retries(backoff, &what, &answered, observer, || ask(transport, wanted))
        .await
        .map_err(|failure| explain(failure, &realm, wanted))?;
    read_token(&body).map_err(|reason| RegistryError::TokenFormat { image: wanted.image.to_owned(), realm, reason })
}

async fn ask(transport: &Transport, wanted: &Wanted<'_>) -> Result<Vec<u8>, Failure> {
    let scope = format!("repository:{}:pull", wanted.repository);
    let mut fields = vec![("scope", scope.as_str())];
    fields.extend(wanted.service.map(|service| ("service", service)));
    let response = match wanted.credential.map(|credential| &credential.proof) {
        Some(Proof::Identity(token)) => {
            fields.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID)]);
            fields.push(("refresh_token", token.expose()));
            transport.post_form(wanted.realm.clone(), form(&wanted.realm, &fields)).await?
        }
        proof => {
            let authorization = match proof {
                Some(Proof::Password(login)) => Authorization::Basic(login.clone()),
                _ => Authorization::None,
            };
            let mut url = wanted.realm.clone();
            url.query_pairs_mut().extend_pairs(fields);
            transport.get(&Get { url, accept: None, range: None, may_leave_origin: false }, &authorization).await?
        }
    };
    if !is_success(response.status()) {
        return Err(Failure::from_response(response).await);
    }
    read_bounded(response, MAX_TOKEN_ANSWER_BYTES).await
}

/// `application/x-www-form-urlencoded` is what stands in a URL's query; any URL will do to write it.
fn form(any_url: &Url, fields: &[(&str, &str)]) -> String {
    let mut url = any_url.clone();
    url.query_pairs_mut().clear().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

/// `token` and `access_token` mean the same. It becomes a header, so it may hold visible ASCII only.
fn read_token(body: &[u8]) -> Result<Secret, &'static str> {
    // Not the parser's error: it quotes what it found.
    let answer: Value = serde_json::from_slice(body).map_err(|_| "its answer is not json")?;
    let found = ["token", "access_token"].into_iter().find_map(|name| answer[name].as_str().filter(|t| !t.is_empty()));
    let token = found.ok_or("its answer has neither `token` nor `access_token`")?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token has characters that no header can hold");
    }
    Ok(Secret::new(token))
}

fn explain(failure: Failure, realm: &str, wanted: &Wanted<'_>) -> RegistryError {
    match failure {
        Failure::Answer(refusal) => RegistryError::Token {
            image: wanted.image.to_owned(),
            realm: realm.to_owned(),
            access: wanted.access.clone(),
            answer: Box::new(refusal.answer),
        },
        Failure::TooLarge(_) => RegistryError::TokenFormat {
            image: wanted.image.to_owned(),
            realm: realm.to_owned(),
            reason: "its answer is too large to be one",
        },
        other => other.into_error(realm, wanted.image),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_a_header_can_hold() {
        for (body, expected) in [
            (r#"{"token":"abc.d-e_f"}"#, Some("abc.d-e_f")),
            (r#"{"access_token":"abc"}"#, Some("abc")),
            (r#"{"token":"","access_token":"abc"}"#, Some("abc")),
            (r#"{"token":"a b"}"#, None),
            (r#"{"token":"a\r\nX-Evil: 1"}"#, None),
            (r#"{"token":"ä"}"#, None),
            (r#"{"token":1}"#, None),
            ("{}", None),
            ("hello", None),
        ] {
            assert_eq!(read_token(body.as_bytes()).ok(), expected.map(Secret::new), "{body}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        let url = "https://h.io/token?x=y".parse().unwrap();
        let form = form(&url, &[("scope", "repository:a/b:pull"), ("refresh_token", "a&b=c +")]);
        assert_eq!(form, "scope=repository%3Aa%2Fb%3Apull&refresh_token=a%26b%3Dc+%2B");
    }
}
