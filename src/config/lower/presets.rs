//! Destinations of services that are described by data: `type: discord` and its like, and `type: http` with a `preset` of
//! its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::destinations::{Owner, STAND_IN_TOKEN};
use super::{Checker, secret_place};
use crate::config::file::{At, Destination as Written, Field, File, Sp, Written as WrittenSecret};
use crate::config::problem::{Problem, quoted};
use crate::deliver::preset::{Settings, check_url};
use crate::model::{Channel, PresetName, Secret};
use crate::preset::{self, Kind, Preset, SETTINGS, Setting};
use crate::rate::Window;

/// A preset, and where it stands if it is the file's own.
pub(super) type Used = (PresetName, Arc<Preset>, At);

/// The type of a destination that brings its own preset.
const OWN: &str = "http";

/// What `type:` may say.
pub(super) fn types() -> Vec<&'static str> {
    Channel::ALL.map(Channel::name).into_iter().chain(preset::names()).chain([OWN]).collect()
}

/// The channel that a destination of this name means by its `type`.
pub(super) fn channel(kind: &str, destination: &str) -> Option<Channel> {
    match kind {
        OWN => Some(Channel::Http(PresetName::new(&format!("{OWN}:{destination}")))),
        _ => kind.parse().ok().or_else(|| Some(Channel::Http(PresetName::new(preset::find(kind).map(|_| kind)?)))),
    }
}

/// The preset that a destination brings along or names; `None` if it has none, or none that is sound.
pub(super) fn of(written: &Written) -> Option<Arc<Preset>> {
    match written.kind.as_ref()?.value.as_str() {
        OWN => Some(Arc::new(written.preset.as_ref()?.value.clone())).filter(|own| own.faults().is_empty()),
        name => preset::find(name),
    }
}

/// The presets that destinations of the file use, but for unsound ones of its own.
pub(super) fn used(file: &File) -> Vec<Used> {
    let entries = file.destinations.iter().flat_map(|field| &field.value.0);
    let entries = entries.filter_map(|(name, written)| Some((name, &written.as_ref()?.value)));
    let found = entries.filter_map(|(name, written)| {
        let Channel::Http(preset) = channel(&written.kind.as_ref()?.value, &name.value)? else { return None };
        let at = written.preset.as_ref().and_then(|field| field.key);
        Some((preset, (preset, of(written)?, at)))
    });
    found.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The fields of such a destination that others do not have.
pub(super) fn fields(written: &Written) -> Vec<&'static str> {
    let is_own = written.kind.as_ref().is_some_and(|kind| kind.value == OWN);
    let preset = if is_own { written.preset.as_ref().map(|field| field.value.clone()) } else { None };
    let preset = preset.map(Arc::new).or_else(|| of(written));
    let has = |name: &str| preset.as_ref().is_some_and(|preset| preset.settings.contains_key(name));
    let calls = preset.as_ref().is_some_and(|preset| !preset.mentions.is_empty());
    let names = SETTINGS.into_iter().filter(|name| has(name));
    names.chain(is_own.then_some("preset")).chain(calls.then_some("mention")).collect()
}

/// The limits that a service is held to where its destination names none.
pub(super) fn limits(preset: &Preset) -> Vec<Window> {
    preset.limit.iter().filter_map(|window| window.parse().ok()).collect()
}

impl Checker<'_> {
    /// Says what is wrong with a preset of the file's own.
    pub(super) fn own_preset(&mut self, name: &Sp<String>, written: &Written) {
        if written.kind.as_ref().is_none_or(|kind| kind.value != OWN) {
            return;
        }
        let Some(field) = &written.preset else {
            let table = format!("the destination {}", quoted(&name.value));
            let example = "`preset:` with `request`, `plain` and `delivered`; docs/PRESETS.md shows one";
            return self.missing_field(&table, "preset", name.at, example);
        };
        let limits = field.value.limit.iter().filter(|window| window.parse::<Window>().is_err());
        let limits = limits.map(|window| format!("{} is not a limit like `1/1s`", quoted(window)));
        for fault in field.value.faults().into_iter().chain(limits) {
            self.report(
                Problem::error("bad-preset", fault),
                field.key,
                "in this preset",
                "docs/PRESETS.md has all fields",
            );
        }
    }
}

impl Owner<'_, '_> {
    pub(super) fn http(mut self, name: PresetName, written: &Written, allow_http: bool) -> Option<Settings> {
        let preset = of(written)?;
        let mut values = Some(BTreeMap::new());
        for (setting, about) in &preset.settings {
            match (self.setting(setting, about, written, allow_http), &mut values) {
                (Some(Some(value)), Some(values)) => drop(values.insert(setting.clone(), value)),
                (Some(None), _) => {}
                _ => values = None,
            }
        }
        let settings = Settings { name, preset, values: values? };
        // A setting that is a URL has been judged where it stands.
        let url = settings.url();
        if settings.preset.settings.values().all(|setting| setting.is != Kind::Url)
            && let Err(problem) = check_url(&url, allow_http)
        {
            let at = written.preset.as_ref().map_or(self.name.at, |field| field.key);
            self.checker.report(Problem::error("bad-url", problem.message), at, "posts to this URL", problem.help);
            return None;
        }
        Some(settings)
    }

    /// The outer `None` is a problem reported, the inner one a setting that may be left out.
    #[expect(clippy::option_option, reason = "a failure and an absence, which the caller keeps apart")]
    fn setting(&mut self, name: &str, about: &Setting, written: &Written, allow_http: bool) -> Option<Option<Secret>> {
        let name = SETTINGS.into_iter().find(|known| *known == name)?;
        let Some(field) = written.setting(name) else {
            if let Some(default) = &about.default {
                return Some(Some(Secret::new(default.as_str())));
            }
            self.missing(name, &format!("`{name}: {}`", about.example));
            return None;
        };
        match about.is {
            Kind::Url => self.url(Some(field), allow_http, check_url).map(Some),
            Kind::Text => self.plain_text(name, field).map(Some),
            Kind::Secret => {
                let secret = self.secret(name, field, STAND_IN_TOKEN)?;
                if secret.known().is_some_and(|secret| !secret.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
                    self.checker.not_a_header(secret_place(field), name);
                    return None;
                }
                Some(Some(secret.into_secret()))
            }
        }
    }

    /// No secret, so it may stand in the file, numbers without quotes.
    fn plain_text(&mut self, name: &'static str, field: &Field<WrittenSecret>) -> Option<Secret> {
        let written = match &field.value {
            WrittenSecret::Literal(text) => text.clone(),
            WrittenSecret::Bare => field.at.and_then(|at| self.checker.text.get(at.start..at.end))?.to_owned(),
            WrittenSecret::Reference(_) => return Some(self.secret(name, field, STAND_IN_TOKEN)?.into_secret()),
        };
        if written.trim().is_empty() || written.chars().any(char::is_control) {
            let problem = Problem::error("empty-value", format!("`{name}` is empty, or holds a control character"));
            self.checker.report(problem, field.at, "cannot be used", "write it as one line of text");
            return None;
        }
        Some(Secret::new(written))
    }
}
