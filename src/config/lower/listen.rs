//! Addresses to listen on: read, and kept from clashing.

use std::net::SocketAddr;

use super::Checker;
use crate::config::Listen;
use crate::config::file::{Admin, Field, File};
use crate::config::problem::{Problem, quoted};
use crate::source;

impl Checker<'_> {
    pub(super) fn admin(&mut self, admin: &Field<Admin>) -> Option<Listen> {
        self.strays(&admin.value.strays, "`admin`", Admin::FIELDS);
        let Some(field) = &admin.value.listen else {
            let example = "`listen: 127.0.0.1:8791`, or remove `admin` to serve no pages";
            self.missing_field("`admin`", "listen", admin.key, example);
            return None;
        };
        if let Some(path) = field.value.strip_prefix("unix:") {
            return self.socket_path(field, path);
        }
        let address = self.socket_address(field)?;
        if !address.ip().is_loopback() {
            let title = "the admin pages have no password and can be served on loopback only";
            self.report(
                Problem::error("bad-address", title),
                field.at,
                "reachable from other machines",
                "write `127.0.0.1:8791` or `unix:/run/halo-relay/admin.sock`; put a proxy with a login before it",
            );
            return None;
        }
        Some(Listen::Tcp(address))
    }

    fn socket_path(&mut self, field: &Field<String>, path: &str) -> Option<Listen> {
        /// `sun_path` of Linux, its closing zero aside.
        const BYTES_MAX: usize = 107;

        if path.starts_with('/') && path.len() <= BYTES_MAX && !path.contains('\0') {
            return Some(Listen::Unix(path.into()));
        }
        let title = format!("{} is not the path of a socket", quoted(path));
        let help =
            format!("write an absolute path of at most {BYTES_MAX} bytes, like `unix:/run/halo-relay/admin.sock`");
        self.report(Problem::error("bad-address", title), field.at, "not an absolute path", help);
        None
    }

    pub(super) fn socket_address(&mut self, field: &Field<String>) -> Option<SocketAddr> {
        let written = field.value.trim();
        if let Ok(address) = written.parse() {
            return Some(address);
        }
        let port = written.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
        let help = match (port, written.rsplit_once(':').map(|(host, _)| host)) {
            (Some(port), Some("localhost")) => format!("write the address itself: `127.0.0.1:{port}`"),
            (Some(port), Some("" | "*")) => format!("write `0.0.0.0:{port}` for every address of this machine"),
            (Some(port), None) => format!("write an address too: `127.0.0.1:{port}`"),
            _ => "write an IP address and a port, like `127.0.0.1:8790` or `[::1]:8790`".to_owned(),
        };
        let problem = Problem::error("bad-address", format!("{} is not an address to listen on", quoted(written)));
        self.report(problem, field.at, "not an address and a port", help);
        None
    }

    /// No two listeners may want one port of one address. Port 0 is a free one each time.
    pub(super) fn listener_clashes(&mut self, file: &File, sources: &[source::Settings], admin: Option<&Listen>) {
        let entries = file.sources.iter().flat_map(|sources| &sources.value.0);
        let place_of = |name: &str| {
            let source = entries.clone().find(|(entry, _)| entry.value == name)?.1.as_ref()?;
            source.value.listen.as_ref()?.at
        };
        let mut listeners: Vec<(SocketAddr, crate::config::file::At)> = Vec::new();
        for source in sources {
            if let source::Settings::Webhook(webhook) = source {
                listeners.push((webhook.listen, place_of(webhook.name.as_str())));
            }
        }
        if let Some(Listen::Tcp(address)) = admin {
            let field = file.admin.as_ref().and_then(|admin| admin.value.listen.as_ref());
            listeners.push((*address, field.and_then(|field| field.at)));
        }
        for (index, (address, at)) in listeners.iter().enumerate() {
            if let Some((_, first)) = listeners[..index].iter().find(|(other, _)| clash(*other, *address)) {
                let problem = Problem::error("address-clash", format!("two listeners want {address}"));
                let problem = problem.related(self.place(*first), "the first wants it here");
                self.report(problem, *at, "taken already", "give one of them another port");
            }
        }
    }
}

fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port()
        && one.port() != 0
        && (a == b
            || (a.is_unspecified() && (a.is_ipv6() || b.is_ipv4()))
            || (b.is_unspecified() && (b.is_ipv6() || a.is_ipv4())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clashes() {
        let cases = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ];
        for (one, other, expected) in cases {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((clash(one, other), clash(other, one)), (expected, expected), "{one} {other}");
        }
    }
}
