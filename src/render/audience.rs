//! Who reads a destination's messages: the zone of their clocks, and the hosts whose addresses they may be shown as such.

use std::sync::{Arc, LazyLock};

use super::text::is_plain_host;
use crate::model::zone::Zone;

/// What the readers of one destination see in their own way. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    pub zone: Zone,
    pub hosts: Hosts,
}

impl Audience {
    /// Readers of whom nothing is known: UTC, and no hosts but the vendor's.
    pub fn anyone() -> &'static Self {
        static ANYONE: LazyLock<Audience> = LazyLock::new(Audience::default);
        &ANYONE
    }
}

/// Hosts whose addresses in event text are not made unclickable. Clones share one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Arc<[HostPattern]>);

/// `www.example.org`, or `*.example.org` for every host below it but not itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// In lower case; without the `*.`.
    name: String,
    below: bool,
}

/// Why a pattern is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHost {
    pub message: String,
    pub help: &'static str,
}

impl Hosts {
    pub fn new(patterns: Vec<HostPattern>) -> Self {
        Self(patterns.into())
    }

    pub(super) fn allow(&self, host: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(host))
    }
}

/// Under these anybody may have a host of their own, beside country domains such as `co.uk`.
const OPEN_TO_ALL: [&str; 20] = [
    "amazonaws.com",
    "appspot.com",
    "azureedge.net",
    "azurewebsites.net",
    "blogspot.com",
    "cloudfront.net",
    "firebaseapp.com",
    "github.io",
    "gitlab.io",
    "googleusercontent.com",
    "herokuapp.com",
    "netlify.app",
    "ngrok.io",
    "onrender.com",
    "pages.dev",
    "sharepoint.com",
    "vercel.app",
    "web.app",
    "windows.net",
    "workers.dev",
];
/// Second labels under which countries give names to everybody, as in `co.uk`.
const SECOND: [&str; 14] =
    ["ac", "co", "com", "edu", "gob", "gov", "ltd", "me", "mil", "ne", "net", "nom", "or", "org"];

impl HostPattern {
    pub fn parse(pattern: &str) -> Result<Self, BadHost> {
        let bad = |message: String, help| Err(BadHost { message, help });
        let example = "write a host, `status.example.org`, or all below one, `*.example.org`";
        if pattern.contains("://") || pattern.contains('/') {
            return bad("an address is not a host".to_owned(), example);
        }
        let (name, below) = pattern.strip_prefix("*.").map_or((pattern, false), |name| (name, true));
        let name = name.to_ascii_lowercase();
        if pattern == "*" || name.is_empty() {
            return bad(
                "this would let every address of a scanned website be a link in your messages".to_owned(),
                example,
            );
        }
        if name.contains('*') {
            return bad("`*` stands only for whole names, at the beginning".to_owned(), example);
        }
        if !is_plain_host(&name) || name.contains(':') || name.contains('_') {
            return bad(
                "this is not a host's name".to_owned(),
                "write it in letters, digits, `-` and `.`; others as `xn--…`",
            );
        }
        let labels: Vec<&str> = name.split('.').collect();
        let is_number = labels.last().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if below && is_number {
            return bad("an IP address has no hosts below it".to_owned(), example);
        }
        let [.., second, top] = labels.as_slice() else {
            return if below {
                bad(
                    format!("anybody can have a host below `.{name}`, attackers too"),
                    "name your own domain, like `*.example.org`",
                )
            } else {
                bad("a name without a dot means another host to every reader".to_owned(), example)
            };
        };
        let of_country = labels.len() == 2 && top.len() == 2 && SECOND.contains(second);
        if below
            && (of_country
                || OPEN_TO_ALL.iter().any(|open| is_or_below(&name, open) && labels.len() <= open.split('.').count()))
        {
            return bad(
                format!("anybody can have a host below `.{name}`, attackers too"),
                "name your own, one label longer",
            );
        }
        Ok(Self { name, below })
    }

    fn matches(&self, host: &str) -> bool {
        let Some((before, end)) = host.len().checked_sub(self.name.len()).and_then(|at| host.split_at_checked(at))
        else {
            return false;
        };
        let right = if self.below { before.len() > 1 && before.ends_with('.') } else { before.is_empty() };
        right && end.eq_ignore_ascii_case(&self.name)
    }
}

fn is_or_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_hosts_are_allowed() {
        let hosts = ["*.example.org", "Status.Example.com", "192.0.2.7"].map(|text| HostPattern::parse(text).unwrap());
        let hosts = Hosts::new(hosts.into());
        for host in ["www.example.org", "a.b.EXAMPLE.org", "status.example.com", "192.0.2.7"] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in
            ["example.org", ".example.org", "evilexample.org", "x.status.example.com", "example.org.evil", "", "é"]
        {
            assert!(!hosts.allow(host), "{host}");
        }
        assert!(!Hosts::default().allow("www.example.org"));
    }

    #[test]
    fn patterns_that_open_too_much_or_are_none() {
        let cases = [
            ("*", "every address"),
            ("*.", "every address"),
            ("", "every address"),
            ("*.com", "anybody"),
            ("*.co.uk", "anybody"),
            ("*.com.au", "anybody"),
            ("*.github.io", "anybody"),
            ("localhost", "without a dot"),
            ("www.*.org", "at the beginning"),
            ("w*.example.org", "at the beginning"),
            ("https://www.example.org", "not a host"),
            ("www.example.org/x", "not a host"),
            ("www.example.org:8443", "not a host"),
            ("www example.org", "not a host"),
            ("bücher.example", "not a host"),
            ("*.2.0.192", "no hosts below"),
        ];
        for (pattern, message) in cases {
            let error = HostPattern::parse(pattern).unwrap_err();
            assert!(error.message.contains(message), "{pattern}: {error:?}");
        }
        for pattern in ["www.co.uk", "*.example.co.uk", "*.acme.github.io", "acme.github.io", "*.xn--bcher-kva.example"]
        {
            assert!(HostPattern::parse(pattern).is_ok(), "{pattern}");
        }
    }
}
