//! Bodies of services that are described by data: what a [`Preset`] says of places, texts and limits, kept.
//!
//! A body is a JSON template like Slack's or Teams'. Where values may stand in it, how they are written there and how long
//! they may be is what `values` says; anywhere else a value is refused. What is too long is made shorter by its values, the
//! longest first, never by what the template itself says; so no markup is ever cut in half.

mod manners;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Number, Value};

use super::Fault;
use super::context::Context;
use super::taint::{self, Allowed, Piece, Refused, Spot, Step, part, pointer};
use super::teams::size;
use super::text::{cut, shorten};
use crate::model::PresetName;
use crate::preset::{self, Encoding, Manner, Place, Preset};

/// Values are cut to this when a body is too long as a whole, and then to less and less.
const VALUE_MAX: usize = 600;
/// Below this, cutting them further would leave nothing worth reading.
const VALUE_MIN: usize = 20;
/// What `plain` may name.
const TEXT: &str = "{{text}}";
const HEADLINE: &str = "{{headline}}";
const DELIVERY: &str = "{{delivery.id}}";
const SEVERITY: &str = "{{severity.name}}";
const NAMED: [&str; 4] = [TEXT, HEADLINE, DELIVERY, SEVERITY];
/// What the plain message says where not even a word of the headline fits; `check` sees to it that there is no such place.
const NOTHING: &str = "…";

/// One service, ready to render for.
#[derive(Debug)]
pub(super) struct Service {
    preset: Arc<Preset>,
    /// The steps of each pattern.
    places: Vec<(Vec<String>, Place)>,
}

/// Ready to render for each of these.
pub(super) fn services(presets: &[(PresetName, Arc<Preset>)]) -> BTreeMap<PresetName, Service> {
    presets.iter().cloned().map(|(name, preset)| (name, Service::new(preset))).collect()
}

/// Those that are compiled in.
pub(super) fn built_in() -> Vec<(PresetName, Arc<Preset>)> {
    preset::names().filter_map(|name| Some((PresetName::new(name), preset::find(name)?))).collect()
}

/// What is wrong with a preset: in which field, what, and what to do.
pub(super) struct Complaint {
    pub(super) field: &'static str,
    pub(super) message: String,
    pub(super) help: String,
}

impl Service {
    pub(super) fn new(preset: Arc<Preset>) -> Self {
        let steps = |pattern: &str| -> Vec<String> {
            pattern.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
        };
        let places = preset.values.iter().map(|(pattern, place)| (steps(pattern), place.clone())).collect();
        Self { preset, places }
    }

    /// Whether it is as it was compiled in, and so tried by the tests.
    pub(super) fn is_built_in(&self, name: PresetName) -> bool {
        preset::find(name.as_str()).is_some_and(|known| Arc::ptr_eq(&known, &self.preset))
    }

    /// Its templates that are not files: the template's name and text.
    pub(super) fn templates(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Preset { body, digest, notice, .. } = &*self.preset;
        let all = [(super::DEFAULT, body), ("digest", digest), ("notice", notice)];
        all.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)))
    }

    /// What would make every message fail.
    pub(super) fn complaints(&self) -> Vec<Complaint> {
        let mut list = Vec::new();
        let mut complain = |field, message: String, help: &str| {
            list.push(Complaint { field, message, help: help.to_owned() });
        };
        for (pattern, place) in &self.preset.values {
            if !pattern.starts_with('/') {
                let help = "write a JSON pointer such as /content or /blocks/*/text";
                complain("values", format!("{pattern:?} is no place in a body"), help);
            }
            if place.max == Some(0) || place.bytes.is_some_and(|bytes| bytes < NOTHING.len()) {
                complain("values", format!("{pattern} has no room for any value"), "raise `max` or `bytes`");
            }
        }
        let mut told = false;
        for (pointer, steps, text) in texts(&self.preset.plain) {
            if !text.contains("{{") {
                continue;
            }
            let rest = NAMED.into_iter().fold(text.clone(), |text, known| text.replace(known, ""));
            told |= text.contains(TEXT) || text.contains(HEADLINE);
            if rest.contains("{{") {
                let help = format!("it knows {}", NAMED.join(", "));
                complain("plain", format!("{pointer} names something else in {{{{…}}}}"), &help);
            }
            let is_name = text == DELIVERY || text == SEVERITY;
            match self.place_at(&steps) {
                None => complain("plain", format!("{pointer} takes no value"), "name the place in `values`"),
                Some(place) if !is_name && (!place.words.is_empty() || !manners::is_free(place.manner)) => {
                    complain("plain", format!("{pointer} takes no text"), "write the lines to another place");
                }
                Some(_) => {}
            }
        }
        if !told {
            complain("plain", "it does not say what happened".to_owned(), "write {{text}} where the lines belong");
        }
        if self.needs_object() && !self.preset.plain.is_object() {
            complain("plain", "members cannot be added to it".to_owned(), "write an object: { text: \"{{text}}\" }");
        }
        list
    }

    /// What a message is made of, with those whom the service can call.
    pub(super) fn calling<'c>(&self, context: &'c Context) -> Cow<'c, Context> {
        context.calling(|mention| self.preset.call(mention))
    }

    /// Whether members are added to what is rendered, or it is written as a form.
    fn needs_object(&self) -> bool {
        self.preset.request.encode == Encoding::Form || !self.preset.request.add.is_empty()
    }

    /// The body of a rendered document.
    pub(super) fn body(&self, document: &Value, allowed: Allowed<'_>) -> Result<Value, Fault> {
        let mut cap = usize::MAX;
        loop {
            let mut body = document.clone();
            taint::resolve(&mut body, &|spot, pieces| self.write(spot, &pieces, allowed, cap))?;
            self.unquote(&mut body)?;
            if self.needs_object() && !body.is_object() {
                return Err(Fault::Limit("the body must be one JSON object here".to_owned()));
            }
            match self.excess(&body) {
                None => return Ok(body),
                Some(why) if cap <= VALUE_MIN => return Err(Fault::Limit(why)),
                Some(_) => cap = if cap > VALUE_MAX { VALUE_MAX } else { (cap * 2 / 3).max(VALUE_MIN) },
            }
        }
    }

    fn write(&self, spot: &Spot<'_>, pieces: &[Piece], allowed: Allowed<'_>, cap: usize) -> Result<String, String> {
        let matches = |at: usize, want: &str| match spot.path.get(at) {
            Some(Step::Member(name)) => *name == want,
            Some(Step::Item(index)) => want.parse() == Ok(*index),
            None => false,
        };
        let place = self.place_of(matches, spot.path.len());
        let place = place.ok_or_else(|| format!("`{}` takes no value here, only literal text", spot.key))?;
        fitted(place, pieces, allowed, cap)
    }

    /// The place of a path of so many steps; of several patterns that fit, the one that leaves least open.
    fn place_of(&self, matches: impl Fn(usize, &str) -> bool, steps: usize) -> Option<&Place> {
        let fits = |want: &[String]| {
            want.len() == steps && want.iter().enumerate().all(|(at, want)| want == "*" || matches(at, want))
        };
        let fitting = self.places.iter().filter(|(want, _)| fits(want));
        fitting.min_by_key(|(want, _)| want.iter().filter(|step| *step == "*").count()).map(|(_, place)| place)
    }

    fn place_at(&self, steps: &[String]) -> Option<&Place> {
        self.place_of(|at, want| steps.get(at).is_some_and(|step| step == want), steps.len())
    }

    /// Writes what stands in places of numbers as numbers.
    fn unquote(&self, body: &mut Value) -> Result<(), Refused> {
        if !self.places.iter().any(|(_, place)| place.manner == Manner::Number) {
            return Ok(());
        }
        for (_, steps, text) in texts(body) {
            let place = self.place_at(&steps);
            if place.is_some_and(|place| place.manner == Manner::Number) {
                let number = text
                    .parse::<u64>()
                    .map_err(|_| Refused { pointer: escaped(&steps), why: "a number must stand here".to_owned() })?;
                if let Some(member) = body.pointer_mut(&escaped(&steps)) {
                    *member = Value::Number(Number::from(number));
                }
            }
        }
        Ok(())
    }

    /// Why a body is too long as a whole.
    fn excess(&self, body: &Value) -> Option<String> {
        let (bytes, bytes_max) = (size(body), self.preset.bytes_max);
        if bytes > bytes_max {
            return Some(format!("the service takes {bytes_max} bytes, here are {bytes}"));
        }
        let max = self.preset.together?;
        let place = |steps: &[String]| self.place_at(steps).filter(|place| manners::is_text(place.manner));
        let lengths =
            texts(body).into_iter().filter_map(|(_, steps, text)| Some(manners::length(place(&steps)?.manner, &text)));
        let all: usize = lengths.sum();
        (all > max).then(|| format!("the service takes {max} characters in all texts together, here are {all}"))
    }

    /// The small plain message: no template, cannot fail.
    pub(super) fn plain(&self, context: &Context) -> Value {
        let mut body = self.preset.plain.clone();
        for (_, steps, text) in texts(&self.preset.plain) {
            let place = self.place_at(&steps);
            if let (Some(place), true) = (place, text.contains("{{"))
                && let Some(member) = body.pointer_mut(&escaped(&steps))
            {
                *member = Value::String(plain_text(place, &text, context));
            }
        }
        // What is no number stays a text: at load it was seen that there is none.
        let _ = self.unquote(&mut body);
        body
    }

    /// Whether the plain message is within all limits, on an event with long texts.
    pub(super) fn try_plain(&self, context: &Context) -> Result<(), String> {
        let body = self.plain(context);
        if texts(&body).iter().any(|(_, _, text)| text == NOTHING) {
            return Err("there is no room for the lines it has to tell".to_owned());
        }
        self.excess(&body).map_or(Ok(()), Err)
    }
}

/// The words of the place, with as many of the lines as fit: all, then without the link, then the headline alone.
fn plain_text(place: &Place, text: &str, context: &Context) -> String {
    let value = |text: &str| Piece::Value(text.to_owned());
    let literal = |text: &str| Piece::Literal(text.to_owned());
    let headline = context.text("headline").unwrap_or_default();
    let lines: Vec<Vec<Piece>> = context.plain_lines().map(|line| vec![value(line)]).collect();
    let link = context.link().map(|url| manners::link(place.manner, url, "Open in Halo Security"));
    let footer = || context.text("footer").map(|line| vec![value(line)]);
    let all: Vec<_> = lines.iter().cloned().chain(link).chain(footer()).collect();
    let unlinked: Vec<_> = lines.into_iter().chain(footer()).collect();
    let filled = |lines: &[Vec<Piece>]| {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((at, name)) = NAMED.into_iter().filter_map(|name| Some((rest.find(name)?, name))).min() {
            pieces.push(literal(&rest[..at]));
            match name {
                TEXT => pieces.extend(lines.join(&literal("\n"))),
                HEADLINE => pieces.push(value(headline)),
                DELIVERY => pieces.push(value(context.delivery_id())),
                _ => pieces.push(value(context.value("severity")["name"].as_str().unwrap_or_default())),
            }
            rest = &rest[at + name.len()..];
        }
        pieces.push(literal(rest));
        pieces.retain(|piece| !piece.text().is_empty());
        pieces
    };
    let allowed = context.allowed();
    let whole = [&all[..], &unlinked[..]].into_iter().find_map(|lines| {
        let text = written(place, filled(lines), allowed).ok()?;
        is_within(place, &text).then_some(text)
    });
    whole
        .or_else(|| fitted(place, &filled(&[vec![value(headline)]]), allowed, usize::MAX).ok())
        .unwrap_or_else(|| NOTHING.to_owned())
}

/// Where a service has words of its own, those.
fn in_words_of(place: &Place, pieces: Vec<Piece>) -> Result<Vec<Piece>, String> {
    if place.words.is_empty() {
        return Ok(pieces);
    }
    let said: String = pieces.iter().map(Piece::text).collect();
    place.words.get(&said).map(|word| vec![Piece::Value(word.clone())]).ok_or_else(|| {
        let known: Vec<_> = place.words.keys().map(String::as_str).collect();
        format!("a value here must be one of {}", known.join(", "))
    })
}

fn is_within(place: &Place, text: &str) -> bool {
    place.max.is_none_or(|max| manners::length(place.manner, text) <= max)
        && place.bytes.is_none_or(|bytes| text.len() <= bytes)
}

/// Written for the place, with its values cut to `cap`, or to what lets all of it fit.
fn fitted(place: &Place, pieces: &[Piece], allowed: Allowed<'_>, cap: usize) -> Result<String, String> {
    let pieces = &allowed.settled(pieces, manners::can_call(place.manner));
    let is_cut =
        |text: &String| manners::is_free(place.manner) && place.words.is_empty() && !allowed.links.contains(text);
    let with_cap = |cap: usize| {
        let short = |piece: &Piece| match piece {
            Piece::Value(text) if is_cut(text) && place.manner == Manner::Data => Piece::Value(cut(text, cap)),
            Piece::Value(text) if is_cut(text) => Piece::Value(shorten(text, cap)),
            piece => piece.clone(),
        };
        written(place, pieces.iter().map(short).collect(), allowed)
    };
    let whole = with_cap(cap)?;
    if is_within(place, &whole) {
        return Ok(whole);
    }
    let lengths = pieces.iter().filter_map(|piece| match piece {
        Piece::Value(text) if is_cut(text) => Some(text.chars().count()),
        _ => None,
    });
    let (mut fits, mut too_long, mut best) = (0, lengths.max().unwrap_or(0).min(cap), None);
    while too_long - fits > 1 {
        let middle = fits.midpoint(too_long);
        let text = with_cap(middle)?;
        if is_within(place, &text) {
            (fits, best) = (middle, Some(text));
        } else {
            too_long = middle;
        }
    }
    best.ok_or_else(|| {
        let (max, unit) = place.max.map_or((place.bytes.unwrap_or_default(), "bytes"), |max| (max, "characters"));
        format!("the service takes {max} {unit} here, and what may not be cut has more")
    })
}

/// Written for the place, however long.
fn written(place: &Place, pieces: Vec<Piece>, allowed: Allowed<'_>) -> Result<String, String> {
    let pieces = in_words_of(place, pieces)?;
    let pieces = if manners::is_text(place.manner) { part(pieces, allowed) } else { pieces };
    manners::write(place.manner, &pieces, allowed.links)
}

/// Every text of a document: its pointer, the steps there, and what it says.
fn texts(document: &Value) -> Vec<(String, Vec<String>, String)> {
    fn collect(value: &Value, steps: &mut Vec<String>, list: &mut Vec<(String, Vec<String>, String)>) {
        match value {
            Value::String(text) => list.push((escaped(steps), steps.clone(), text.clone())),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    steps.push(index.to_string());
                    collect(item, steps, list);
                    steps.pop();
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    steps.push(name.clone());
                    collect(member, steps, list);
                    steps.pop();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut list = Vec::new();
    collect(document, &mut Vec::new(), &mut list);
    list
}

fn escaped(steps: &[String]) -> String {
    pointer(&steps.iter().map(|step| Step::Member(step)).collect::<Vec<_>>())
}
