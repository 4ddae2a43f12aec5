//! `fallback:` of a destination: who is told instead. Read once all destinations are known.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Checker;
use super::destinations::Defined;
use crate::config::file::{At, Destination, Fallback as Written, Field, Sp};
use crate::config::problem::{Problem, quoted};
use crate::deliver::{Settings, email, http, slack};
use crate::model::Fallback;

/// Long enough for a receiver to restart, short enough for an alert to be one still.
const AFTER: Duration = Duration::from_mins(5);
/// Sooner, a single slow answer would send everything twice over.
const AFTER_MIN: Duration = Duration::from_secs(10);
/// Servers on this machine are the user's own.
const AFTER_MIN_LOCAL: Duration = Duration::from_millis(100);
/// Beyond a day, what falls back is no alert any more.
const AFTER_MAX: Duration = Duration::from_hours(24);

/// Where a destination's fallback leads, and where the file says so.
type Leads<'f> = HashMap<&'f str, (&'f str, At)>;

impl Checker<'_> {
    pub(super) fn fallbacks(&mut self, written: &[(&Sp<String>, &Sp<Destination>)], defined: &mut Defined) {
        let mut leads = Leads::new();
        for (name, destination) in written {
            let Some(field) = &destination.value.fallback else { continue };
            let Some((to, after)) = self.fallback(&name.value, field, defined) else { continue };
            leads.insert(&name.value, (&to.value, to.at));
            let fallback = Fallback { to: to.value.as_str().into(), after };
            if let Some(settings) = defined.settings_mut(&name.value) {
                settings.fallback = Some(fallback);
            }
        }
        self.fallback_loops(written, &leads);
    }

    fn fallback<'f>(
        &mut self,
        name: &str,
        field: &'f Field<Written>,
        defined: &Defined,
    ) -> Option<(&'f Field<String>, Duration)> {
        let written = &field.value;
        let mut strays = written.strays.clone();
        // Told below, as missing.
        strays.empty.retain(|key| key.value != "to");
        self.strays(&strays, "`fallback`", Written::FIELDS);
        let local =
            |name: &str| defined.get(name).and_then(|one| one.settings()).is_none_or(|one| is_local(&one.settings));
        let to = written.to.as_ref();
        let quick = local(name) && to.is_none_or(|to| local(&to.value));
        let after_min = if quick { AFTER_MIN_LOCAL } else { AFTER_MIN };
        let after = written.after.as_ref().map_or(Some(AFTER), |field| self.duration(field, after_min, AFTER_MAX));
        let Some(to) = to else {
            let example = "`to:` and the destination to tell instead";
            self.missing_field("`fallback`", "to", field.key, example);
            return None;
        };
        if to.value == name {
            let problem = Problem::error("bad-fallback", format!("{} falls back to itself", quoted(name)));
            self.report(problem, to.at, "the same destination", "name another destination, or remove `fallback`");
            return None;
        }
        if defined.get(&to.value).is_none() {
            self.unknown_destination(&Sp { value: to.value.as_str(), at: to.at }, defined);
            return None;
        }
        Some((to, after?))
    }

    /// Each loop is told once, from where the file's order first leads into it.
    fn fallback_loops(&mut self, written: &[(&Sp<String>, &Sp<Destination>)], leads: &Leads<'_>) {
        /// Longer loops are told by their beginning.
        const SHOWN_MAX: usize = 6;

        let mut seen: HashSet<&str> = HashSet::new();
        for (start, _) in written {
            let mut path: Vec<(&str, At)> = Vec::new();
            let mut name = start.value.as_str();
            while let Some((to, at)) = leads.get(name)
                && seen.insert(name)
            {
                path.push((name, *at));
                name = to;
            }
            // A walk that ended on its own path has found a loop; one that ended on an older path, nothing new.
            let Some(first) = path.iter().position(|(passed, _)| *passed == name) else { continue };
            let round = &path[first..];
            let mut names: Vec<String> = round.iter().map(|(name, _)| quoted(name)).take(SHOWN_MAX).collect();
            if round.len() > SHOWN_MAX {
                names.push("…".to_owned());
            }
            names.push(quoted(name));
            let title = format!("the fallbacks lead in a circle: {}", names.join(" to "));
            let back = round.last().and_then(|(_, at)| self.place(*at));
            let problem = Problem::error("bad-fallback", title).related(back, "and this leads back");
            let help = "remove one of them; what a fallback has handed over is not handed on again";
            self.report(problem, round.first().and_then(|(_, at)| *at), "leads on from here", help);
        }
    }
}

/// Whether what is sent goes to this machine; also where the address is not looked up, so that no bound is known.
fn is_local(settings: &Settings) -> bool {
    match settings {
        Settings::Slack(slack::Settings::Bot { api_base, .. }) => http::is_to_loopback(api_base),
        Settings::Slack(slack::Settings::Webhook { url }) => is_local_url(url.expose()),
        Settings::Teams(settings) => is_local_url(settings.url.expose()),
        Settings::Webhook(settings) => is_local_url(settings.url.expose()),
        Settings::Http(settings) => is_local_url(&settings.url()),
        Settings::Email(settings) => match &settings.way {
            email::Way::Smtp(server) if server.host.contains(':') => {
                http::is_to_loopback(&format!("http://[{}]", server.host))
            }
            email::Way::Smtp(server) => http::is_to_loopback(&format!("http://{}", server.host)),
            email::Way::Api(api) => http::is_to_loopback(&api.base_url),
        },
    }
}

fn is_local_url(url: &str) -> bool {
    url.starts_with(super::destinations::STAND_IN_URL.trim_end_matches('/')) || http::is_to_loopback(url)
}
