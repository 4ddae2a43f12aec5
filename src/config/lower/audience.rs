//! `timezone:` and `links:`, what readers see in their own way.

use super::Checker;
use crate::config::file::{Field, File, Links};
use crate::config::problem::{Problem, quoted};
use crate::model::Zone;
use crate::render::{Audience, BadHost, HostPattern, Hosts};

/// Each is looked at for each address in an event.
const HOSTS_MAX: usize = 100;

impl Checker<'_> {
    /// Of destinations that say nothing of their own.
    pub(super) fn audience(&mut self, file: &File) -> Audience {
        let zone = file.timezone.as_ref().and_then(|field| self.timezone(field));
        let hosts = file.links.as_ref().map(|field| self.links(field));
        Audience { zone: zone.unwrap_or_default(), hosts: hosts.unwrap_or_default() }
    }

    pub(super) fn timezone(&mut self, field: &Field<String>) -> Option<Zone> {
        let unknown = match Zone::named(field.value.trim()) {
            Ok(zone) => return Some(zone),
            Err(unknown) => unknown,
        };
        let help = match unknown.near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write a name of the IANA database, like `Europe/Berlin`, or `UTC`".to_owned(),
        };
        let problem = Problem::error("bad-timezone", format!("there is no time zone {}", quoted(&field.value)));
        self.report(problem, field.at, "not a time zone", help);
        None
    }

    fn links(&mut self, field: &Field<Links>) -> Hosts {
        self.strays(&field.value.strays, "`links`", Links::FIELDS);
        let Some(allow) = &field.value.allow else { return Hosts::default() };
        let items = allow.value.items(allow.at, self.text);
        if items.len() > HOSTS_MAX {
            let problem = Problem::error("bad-host", format!("`allow` takes at most {HOSTS_MAX} hosts"));
            self.report(problem, allow.key, "too many", "name domains instead of hosts: `*.example.org`");
        }
        let mut patterns = Vec::new();
        for item in items {
            match HostPattern::parse(item.value) {
                Ok(pattern) => patterns.push(pattern),
                Err(BadHost { message, help }) => {
                    let problem =
                        Problem::error("bad-host", format!("{} cannot be allowed: {message}", quoted(item.value)));
                    self.report(problem, item.at, "not a host to allow", help);
                }
            }
        }
        Hosts::new(patterns)
    }
}
