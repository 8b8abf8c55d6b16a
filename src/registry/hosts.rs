//! Which hosts are trusted with what: plain http, unverified certificates, secrets.
//!
//! Docker's rule: a registry on a loopback address, or one that is marked insecure, may have a certificate that cannot be
//! verified or none at all. Whoever controls such an address could speak plain http to us anyway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// The host of `host[:port]`, an IPv6 address without its brackets.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// `localhost`, `127.0.0.0/8` or `::1`, with or without a port.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether `marked` (entries `host` for any port, or `host:port`) covers the host.
pub(super) fn is_marked(marked: &[String], host: &str) -> bool {
    marked.iter().any(|entry| entry.eq_ignore_ascii_case(host) || entry.eq_ignore_ascii_case(without_port(host)))
}

/// `host[:port]` of a URL, as it would stand in a reference.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Addresses where clouds keep the machine's own credentials, and link-local ones in general.
pub(super) fn is_metadata_service(url: &Url) -> bool {
    const AWS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    const ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const ORACLE: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 192);
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let is_v4 = |address: Ipv4Addr| address.is_link_local() || address == ALIBABA || address == ORACLE;
    match without_port(host).parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => is_v4(address),
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => is_v4(mapped),
            None => address == AWS_V6 || address.is_unicast_link_local(),
        },
        Err(_) => host.eq_ignore_ascii_case("metadata.google.internal"),
    }
}

/// Checks the URL of a token service before anything is sent there.
///
/// A registry names its token service freely, and docker's hub does live on another host, so the host cannot be
/// restricted. The way there is: https, unless the registry itself is talked to in plain http; and never an address that
/// hands out credentials.
pub(super) fn check_realm(realm: &str, registry_is_http: bool) -> Result<Url, &'static str> {
    let url: Url = realm.parse().map_err(|_| "it is not a url")?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none_or(str::is_empty) {
        return Err("it is not an https url");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries a user name");
    }
    if is_metadata_service(&url) {
        return Err("that is the address of a metadata service");
    }
    if url.scheme() == "http" && !registry_is_http {
        return Err("a secret would travel in the clear, expected an https url");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_dockers() {
        for yes in ["localhost", "localhost:5000", "LOCALHOST", "127.0.0.1", "127.9.8.7:1", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.evil.io", "127.0.0.1.evil.io", "128.0.0.1", "0.0.0.0:5000", "[::2]:1", "a:127", ""] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn marks_cover_a_port_or_all() {
        let marked = ["h.io:5000".to_owned(), "plain.io".to_owned()];
        assert!(is_marked(&marked, "h.io:5000") && is_marked(&marked, "plain.io") && is_marked(&marked, "plain.io:80"));
        assert!(!is_marked(&marked, "h.io") && !is_marked(&marked, "h.io:80") && !is_marked(&marked, "x.plain.io"));
    }

    #[test]
    fn secrets_go_to_https_realms_only() {
        for (realm, from_https, from_http) in [
            ("https://auth.docker.io/token", true, true),
            ("https://10.0.0.1/token", true, true),
            ("http://auth.docker.io/token", false, true),
            ("http://127.0.0.1:1/token", false, true),
            ("https://169.254.169.254/latest", false, false),
            ("http://169.254.169.254/latest", false, false),
            ("http://2852039166/latest", false, false),
            ("http://0xa9.0xfe.0xa9.0xfe/", false, false),
            ("https://[::ffff:169.254.169.254]/", false, false),
            ("https://[fd00:ec2::254]/", false, false),
            ("https://[fe80::1]/", false, false),
            ("https://100.100.100.200/", false, false),
            ("http://metadata.google.internal./", false, false),
            ("https://user:pass@h.io/", false, false),
            ("ftp://h.io/", false, false),
            ("file:///etc/passwd", false, false),
            ("//h.io/token", false, false),
            ("/token", false, false),
            ("", false, false),
        ] {
            assert_eq!(check_realm(realm, false).is_ok(), from_https, "{realm} from an https registry");
            assert_eq!(check_realm(realm, true).is_ok(), from_http, "{realm} from an http registry");
        }
    }
}
