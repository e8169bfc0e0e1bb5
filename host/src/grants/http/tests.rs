//! Every form of a rule that the documentation names, and requests that try to evade one.

use super::*;

fn rules(text: &str) -> HttpRules {
    #[derive(Deserialize)]
    struct GrantFixture {
        http: HttpRules,
    }
    toml::from_str::<GrantFixture>(text).map(|grant| grant.http).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Asks about a URL as a guest would write it.
fn allowed(rules: &HttpRules, method: &str, url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").expect("a scheme");
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    split_authority(authority).is_some_and(|(host, port)| rules.check(method, scheme, host, port, path).is_ok())
}

#[test]
fn a_rule_allows_what_it_says() {
    for (rule, url, is) in [
        ("https://api.example.com", "https://api.example.com/", true),
        ("https://api.example.com", "https://api.example.com/any/path/../at//all", true),
        ("https://api.example.com", "https://api.example.com:443/", true),
        ("https://api.example.com", "HTTPS://API.Example.COM/", true),
        ("https://API.example.com", "https://api.example.com/", true),
        ("https://api.example.com", "https://api.example.com:8443/", false),
        ("https://api.example.com", "http://api.example.com/", false),
        ("https://api.example.com", "http://api.example.com:443/", false),
        ("https://api.example.com", "https://api.example.com./", false),
        ("https://api.example.com", "https://api.example.com.evil.com/", false),
        ("https://api.example.com", "https://evilapi.example.com/", false),
        ("https://api.example.com", "https://api.example.com@evil.com/", false),
        ("https://api.example.com", "https://user@api.example.com/", false),
        ("https://api.example.com", "https://api.example.com\\@evil.com/", false),
        ("https://api.example.com", "https://api.exámple.com/", false),
        ("https://api.example.com", "https://api.example。com/", false),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example/", true),
        ("https://xn--bcher-kva.example", "https://bücher.example/", false),
        ("https://api.example.com:8443", "https://api.example.com:8443/", true),
        ("https://api.example.com:8443", "https://api.example.com/", false),
        ("https://*.example.com", "https://a.example.com/", true),
        ("https://*.example.com", "https://a.b.example.com/", true),
        ("https://*.example.com", "https://A.EXAMPLE.com/", true),
        ("https://*.example.com", "https://example.com/", false),
        ("https://*.example.com", "https://.example.com/", false),
        ("https://*.example.com", "https://badexample.com/", false),
        ("https://*.example.com", "https://a.example.com.evil.com/", false),
        ("https://*.example.com", "https://1.2.3.4/", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/users", true),
        ("https://api.example.com/v1/*", "https://api.example.com/v10/users", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/../admin", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/%2e%2e/admin", false),
        ("https://api.example.com/v1/*", "https://api.example.com//v1/a", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/a%2f..%2f..%2fadmin", false),
        ("https://api.example.com/v1/users", "https://api.example.com/v1/users", true),
        ("https://api.example.com/v1/users", "https://api.example.com/v1/users/1", false),
        ("https://api.example.com/", "https://api.example.com", true),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/", true),
        ("http://127.0.0.1:8080", "http://127.1:8080/", false),
        ("http://127.0.0.1:8080", "http://2130706433:8080/", false),
        ("http://127.0.0.1:8080", "http://0x7f000001:8080/", false),
        ("http://127.0.0.1:8080", "http://0177.0.0.1:8080/", false),
        ("http://127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080/", false),
        ("http://127.0.0.1:8080", "http://localhost:8080/", false),
        ("http://localhost:8080", "http://127.0.0.1:8080/", false),
        ("http://[::1]:8080", "http://[::1]:8080/", true),
        ("http://[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080/", true),
        ("http://[::1]:8080", "http://[::2]:8080/", false),
    ] {
        assert_eq!(allowed(&rules(&format!("[[http]]\nurl = {rule:?}")), "GET", url), is, "{rule} {url}");
    }
}

#[test]
fn a_rule_allows_the_methods_it_names() {
    let default = rules("[[http]]\nurl = 'https://a.example'");
    let named = rules("[[http]]\nurl = 'https://a.example'\nmethods = ['POST', 'DELETE']");
    for (method, by_default, by_name) in [
        ("GET", true, false),
        ("HEAD", true, false),
        ("POST", false, true),
        ("DELETE", false, true),
        ("get", false, false),
        ("CONNECT", false, false),
        ("TRACE", false, false),
        ("GET / HTTP/1.1\r\n", false, false),
        ("", false, false),
    ] {
        assert_eq!(allowed(&default, method, "https://a.example/"), by_default, "{method:?}");
        assert_eq!(allowed(&named, method, "https://a.example/"), by_name, "{method:?}");
    }
}

#[test]
fn a_rule_allows_public_addresses_and_those_it_names() {
    let text = "[[http]]\nurl = 'https://a.example/x'\n[[http]]\nurl = 'https://a.example'\naddresses = ['10.0.0.0/8', 'fd00::/8']\n[[http]]\nurl = 'http://127.0.0.1'\n[[http]]\nurl = 'https://b.example'";
    let rules = rules(text);
    for (url, address, is) in [
        ("https://a.example", "1.1.1.1", true),
        ("https://a.example", "10.1.2.3", true),
        ("https://a.example", "fd00::1", true),
        ("https://a.example", "127.0.0.1", false),
        ("https://a.example", "169.254.169.254", false),
        ("https://a.example", "::ffff:10.1.2.3", false),
        ("https://b.example", "10.1.2.3", false),
        ("http://127.0.0.1", "127.0.0.1", true),
        ("http://127.0.0.1", "127.0.0.2", false),
        ("http://unknown.example", "1.1.1.1", false),
    ] {
        let origin = UrlOrigin::try_from(url.to_owned()).expect("an origin");
        let answer = rules.allows_address("GET", &origin, "/x", address.parse().expect("an address"));
        assert_eq!(answer.is_ok(), is, "{url} {address}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for (rule, says) in [
        ("url = 'api.example.com'", "it has no scheme"),
        ("url = 'ftp://api.example.com'", "neither http nor https"),
        ("url = 'https://'", "1 to 253 characters"),
        ("url = 'https://*'", "letters, digits"),
        ("url = 'https://*.'", "1 to 253 characters"),
        ("url = 'https://a.*.com'", "letters, digits"),
        ("url = 'https://*a.com'", "letters, digits"),
        ("url = 'https://*.*.com'", "letters, digits"),
        ("url = 'https://*.10.0.0.1'", "no names below"),
        ("url = 'https://user@a.com'", "a host and perhaps a port"),
        ("url = 'https://a.com:*'", "a host and perhaps a port"),
        ("url = 'https://a.com:0'", "a host and perhaps a port"),
        ("url = 'https://a.com.'", "without a dot at its end"),
        ("url = 'https://bücher.de'", "xn--"),
        ("url = 'https://127.1'", "four decimal numbers"),
        ("url = 'https://[::ffff:127.0.0.1]'", "an IPv4 address is written as one"),
        ("url = 'https://a.com/v1*'", "which does not allow `/v10`"),
        ("url = 'https://a.com/*/b'", "`*` stands at the end only"),
        ("url = 'https://a.com/a/../b'", "no `//`"),
        ("url = 'https://a.com/a?b=c'", "no query"),
        ("url = 'https://a.com?b=c'", "no query"),
        ("url = 'https://a.com'\nmethods = []", "allow nothing"),
        ("url = 'https://a.com'\nmethods = ['get']", "not a method such as"),
        ("url = 'https://a.com'\nmethods = ['*']", "not a method such as"),
        ("url = 'https://a.com'\nmethods = ['CONNECT']", "offered to no component"),
        ("url = 'https://a.com'\naddresses = ['10.0.0.1']", "length of the prefix"),
        ("url = 'https://a.com'\naddresses = ['10.0.0.1/8']", "write 10.0.0.0/8"),
        ("url = 'https://a.com'\naddresses = ['lan']", "is not a network"),
        ("url = 'https://a.com'\nheaders = ['a']", "unknown field `headers`"),
        ("methods = ['GET']", "missing field `url`"),
    ] {
        let error = toml::from_str::<Rule>(rule).expect_err(rule).to_string();
        assert!(error.contains(says), "{rule} gave {error:?}, which does not say {says:?}");
    }
}

#[test]
fn a_refusal_says_what_would_allow_it() {
    let rules = rules("[[http]]\nurl = 'https://a.example'");
    let denied = rules.check("POST", "https", "b.example", Some(8443), "/v1/x").expect_err("no rule");
    assert_eq!(denied.to_string(), "no rule allows POST https://b.example:8443/v1/x");
    let advice = denied.advice().expect("a rule can");
    assert_eq!(advice, "[[http]]\nurl = \"https://b.example:8443/v1/x\"\nmethods = [\"POST\"]");
    // The advice is a rule, and it allows the request.
    let added: Rule = toml::from_str(advice.split_once('\n').expect("two lines").1).expect("a rule");
    assert!(HttpRules(vec![added]).check("POST", "https", "b.example", Some(8443), "/v1/x").is_ok());
    let never = rules.check("GET", "https", "0x7f.1", None, "/").expect_err("no host");
    assert_eq!(never.advice(), None);
    let twisted = rules.check("GET", "https", "b.example", None, "/a/../\"b").expect_err("no rule");
    assert_eq!(twisted.advice().expect("a rule can"), "[[http]]\nurl = \"https://b.example\"\nmethods = [\"GET\"]");
}
