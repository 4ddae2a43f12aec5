//! From an event to what a channel shows: templates in, [`Content`] out. Pure; the only I/O is reading template files.
//!
//! What this promises:
//! - **Event text is hostile and stays text.** It never becomes markup, a mention, a link, a mail header or JSON structure.
//!   Two defences, each enough alone for most of it: `context` makes all text safe to show before a template sees it, and
//!   every printed value is escaped for the very place where it lands (`taint`), or refused there. Only literals in
//!   templates, and configuration, can be markup.
//! - **A template mistake is found at load.** Templates are linted (`template`), then tried on plain, empty and hostile
//!   sample events. If one fails later all the same, [`Renderer::plain`] renders without a template and cannot fail.
//! - **Limits are kept.** Output is bounded, and brought within each channel's limits; what is cut is marked with `…`.
//!
//! ```text
//!  Event ─► Context ─► template ─► JSON with marked values ─► each value written for its place ─► limits ─► Content
//! ```
//!
//! A service described by data alone ([`Preset`]) has JSON templates too; which of its texts may hold values, and how they
//! are written there, is in that data.
//!
//! Templates are files `CHANNEL/NAME.hbs`; for email `email/NAME.subject.hbs`, `.text.hbs` and `.html.hbs`, of which missing
//! ones are taken from `default` (an empty HTML part means none). Files whose names begin with `_` are partials.

mod audience;
mod context;
mod digest;
mod document;
mod email;
mod helpers;
mod html;
mod notice;
mod preset;
mod quick;
mod samples;
mod slack;
mod taint;
mod teams;
mod template;
mod text;
mod time;
mod webhook;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod mention_tests;
#[cfg(test)]
mod snapshot_tests;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handlebars::{Handlebars, Template};
use serde_json::{Value, json};

pub use self::audience::{Audience, BadHost, HostPattern, Hosts};
pub use self::context::{Circumstances, Context, Detour, is_runbook_url};
use self::context::{Shape, event_without_body};
pub use self::digest::{Digest, DigestCount, DigestKind};
use self::document::{Builder, Tokens};
pub use self::notice::Notice;
use self::preset::Service;
use self::quick::{Program, Scope};
pub use self::samples::Tried;
use self::template::{Facts, Finding};
use crate::model::message::UnknownChannel;
use crate::model::{Channel, Content, PresetName};
use crate::preset::Preset;

/// The name used where neither rule nor destination names a template.
pub const DEFAULT: &str = "default";
/// The most one template may render, in bytes, marks and escapes included.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// All templates, checked and compiled.
#[derive(Debug)]
pub struct Renderer {
    formats: BTreeMap<Format, Templates>,
    services: BTreeMap<PresetName, Service>,
}

/// What is wrong with a template file, and where (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The file; `None` for a built-in template, and for what stands in a preset itself.
    pub path: Option<Box<Path>>,
    /// `None` when the file belongs to no channel.
    pub channel: Option<Channel>,
    /// The file's name within its channel, like `default.html`; of a preset its field: `body`, `digest`, `notice`, `plain` or
    /// `values`. Lines and columns count within that field's text.
    pub name: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", path.display())?,
            None if matches!(self.channel, Some(Channel::Http(_))) => {
                write!(f, "{}/{}", self.channel.map_or("", Channel::name), self.name)?;
            }
            None => write!(f, "built-in template {}", self.name)?,
        }
        write!(f, ":{}:{}: {}", self.line, self.column, self.message)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

impl std::error::Error for TemplateError {}

/// Why an event could not be rendered. The message names the template and the place, never what an event says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template {template}{place}: {message}")]
pub struct RenderError {
    /// Channel and file, like `email/default.html`.
    pub template: String,
    pub place: Place,
    pub message: String,
}

/// Where in a template, or in what it rendered, an error was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Whole,
    Line {
        line: usize,
        column: usize,
    },
    /// A line of the rendered text.
    Rendered {
        line: usize,
    },
    /// A JSON pointer into the rendered document.
    Pointer(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Line { line, column } => write!(f, " line {line}, column {column}"),
            Self::Rendered { line } => write!(f, " (line {line} of what it rendered)"),
            Self::Pointer(pointer) => write!(f, " at {pointer}"),
        }
    }
}

impl Renderer {
    /// The templates that are compiled in.
    #[expect(clippy::missing_panics_doc, reason = "the tests load what is compiled in")]
    pub fn builtin() -> Self {
        #[expect(clippy::expect_used, reason = "compiled-in templates that every test run loads")]
        Self::load(None, &preset::built_in()).expect("the built-in templates are in order")
    }

    /// The built-in templates and those of these presets, replaced file by file by those under `dir`. All problems are
    /// reported, not the first alone.
    pub fn load(dir: Option<&Path>, presets: &[(PresetName, Arc<Preset>)]) -> Result<Self, Vec<TemplateError>> {
        let services = preset::services(presets);
        let mut sources = builtin_sources();
        let mut errors = Vec::new();
        for (name, service) in &services {
            errors.extend(preset_complaints(*name, service));
            for source in preset_sources(*name, service) {
                match source {
                    Ok(source) => sources.push(source),
                    Err(error) => errors.push(error),
                }
            }
        }
        if let Some(dir) = dir {
            for found in read_dir(dir, &services) {
                match found {
                    Ok(source) => sources.push(source),
                    Err(error) => errors.push(error),
                }
            }
        }
        let mut formats = BTreeMap::new();
        for format in Format::ALL.into_iter().chain(services.keys().map(|name| Format::Preset(*name))) {
            // A later source of the same name replaces the earlier one.
            let own = sources.iter().filter(|source| source.format == format);
            let own: BTreeMap<_, _> = own.map(|source| (source.name.clone(), source)).collect();
            match Templates::compile(format, &own, &trial::contexts(format)) {
                Ok(templates) => drop(formats.insert(format, templates)),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() {
            let renderer = Self { formats, services };
            errors = trial::run(&renderer, &sources);
            if errors.is_empty() {
                return Ok(renderer);
            }
        }
        Err(errors)
    }

    /// Whether a rule or destination may name this template.
    pub fn has(&self, channel: Channel, name: &str) -> bool {
        self.files_of(channel).any(|known| known == name)
    }

    /// The templates of a channel, in alphabetical order: the names that a rule or destination may use. The files of one
    /// name are one template, whichever of them there are.
    pub fn names(&self, channel: Channel) -> impl Iterator<Item = &str> {
        self.files_of(channel).collect::<BTreeSet<_>>().into_iter()
    }

    /// The template that each file belongs to.
    fn files_of(&self, channel: Channel) -> impl Iterator<Item = &str> {
        let formats = self.formats.iter().filter(move |(format, _)| format.channel() == channel);
        let files = formats.flat_map(|(_, templates)| templates.read.keys()).filter_map(|file| template_of(file));
        // A preset may come without a template of its own.
        let plain = matches!(channel, Channel::Http(name) if self.services.contains_key(&name)).then_some(DEFAULT);
        files.chain(plain)
    }

    /// Renders one message: of several events by `NAME.digest`, else the built-in `digest`; news of the relay by `notice`.
    /// What a preset has no template for is rendered by its `plain`.
    /// On an error the caller sends [`Self::plain`] instead.
    pub fn render(&self, channel: Channel, name: &str, context: &Context) -> Result<Content, RenderError> {
        if !self.has(channel, name) {
            let template = format!("{channel}/{name}");
            return Err(RenderError { template, place: Place::Whole, message: "there is no such template".to_owned() });
        }
        self.render_file(channel, name, context)
    }

    /// Renders by a template of this name, whether or not a rule may use it.
    fn render_file(&self, channel: Channel, name: &str, context: &Context) -> Result<Content, RenderError> {
        let allowed = context.allowed();
        match channel {
            Channel::Slack => self.json(Format::Slack, name, context, |document| {
                taint::resolve(document, &|spot, pieces| slack::write(spot, pieces, allowed))?;
                slack::fit(document).map_err(Fault::Limit)
            }),
            Channel::Teams => self.json(Format::Teams, name, context, |document| {
                taint::resolve(document, &|spot, pieces| teams::write(spot, pieces, allowed))?;
                teams::fit(document).map_err(Fault::Limit)
            }),
            Channel::Webhook => self.json(Format::Webhook, name, context, |document| {
                taint::resolve(document, &|spot, pieces| Ok(webhook::write(spot, &pieces)))?;
                webhook::fit(document).map_err(Fault::Limit)
            }),
            Channel::Email => self.mail(name, context),
            Channel::Http(preset) => self.http(preset, name, context),
        }
    }

    /// The small plain message: no template, cannot fail. Headline, link, footer.
    /// Sent when rendering failed or when the channel refused the content.
    pub fn plain(&self, channel: Channel, context: &Context) -> Content {
        match channel {
            Channel::Slack => Content::Json(slack::plain(context)),
            Channel::Teams => Content::Json(teams::plain(context)),
            Channel::Email => email::plain(context),
            Channel::Webhook => Content::Json(webhook::plain(context)),
            Channel::Http(preset) => {
                let service = self.services.get(&preset);
                Content::Json(service.map_or_else(|| webhook::plain(context), |service| service.plain(context)))
            }
        }
    }

    fn http(&self, preset: PresetName, name: &str, context: &Context) -> Result<Content, RenderError> {
        let format = Format::Preset(preset);
        let missing = || Fault::Limit("there is no such template".to_owned()).of(format, name);
        let (service, templates) = self.services.get(&preset).zip(self.formats.get(&format)).ok_or_else(missing)?;
        let context = &*service.calling(context);
        if !templates.read.contains_key(&templates.file_for(name, context.shape())) {
            return Ok(Content::Json(service.plain(context)));
        }
        let body = self.document(format, name, context)?;
        let body = body.and_then(|body| service.body(&body, context.allowed()));
        body.map(Content::Json).map_err(|fault| fault.of(format, name))
    }

    fn json(
        &self,
        format: Format,
        name: &str,
        context: &Context,
        finish: impl FnOnce(&mut Value) -> Result<(), Fault>,
    ) -> Result<Content, RenderError> {
        let document = self.document(format, name, context)?;
        let finished = document.and_then(|mut document| finish(&mut document).map(|()| document));
        finished.map(Content::Json).map_err(|fault| fault.of(format, name))
    }

    /// What a JSON template renders, its values marked; within, that it is no JSON.
    fn document(&self, format: Format, name: &str, context: &Context) -> Result<Result<Value, Fault>, RenderError> {
        let (templates, file) = self.templates(format, name, context)?;
        Ok(match templates.document(format, &file, context) {
            Some(document) => Ok(document),
            None => taint::parse(&templates.render(format, &file, context)?).map_err(Fault::NotJson),
        })
    }

    fn mail(&self, name: &str, context: &Context) -> Result<Content, RenderError> {
        let part = |format| {
            let rendered = self.rendered(format, name, context)?;
            Ok::<_, RenderError>(email::unmarked(&rendered, context.allowed()))
        };
        let mut subject = email::subject(&part(Format::Subject)?);
        if subject.is_empty() {
            // As of `{{event.subject}}`, when the event has none.
            subject = email::subject(context.text("headline").unwrap_or_default());
        }
        let html = part(Format::Html)?;
        let html = (!html.trim().is_empty()).then(|| email::body(&html));
        Ok(Content::Mail { subject, text: email::body(&part(Format::Text)?), html })
    }

    fn rendered(&self, format: Format, name: &str, context: &Context) -> Result<String, RenderError> {
        let (templates, file) = self.templates(format, name, context)?;
        templates.render(format, &file, context)
    }

    /// The templates of a format, and which of them is for this message.
    fn templates(&self, format: Format, name: &str, context: &Context) -> Result<(&Templates, String), RenderError> {
        let missing = || Fault::Limit("there is no such template".to_owned()).of(format, name);
        let templates = self.formats.get(&format).ok_or_else(missing)?;
        Ok((templates, templates.file_for(name, context.shape())))
    }
}

/// A kind of template file: each has its own way of escaping, and so its own registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Format {
    Slack,
    Teams,
    Webhook,
    Subject,
    Text,
    Html,
    Preset(PresetName),
}

impl Format {
    /// But for presets.
    const ALL: [Self; 6] = [Self::Slack, Self::Teams, Self::Webhook, Self::Subject, Self::Text, Self::Html];

    const fn channel(self) -> Channel {
        match self {
            Self::Slack => Channel::Slack,
            Self::Teams => Channel::Teams,
            Self::Webhook => Channel::Webhook,
            Self::Subject | Self::Text | Self::Html => Channel::Email,
            Self::Preset(name) => Channel::Http(name),
        }
    }

    /// What stands between a mail template's name and `.hbs`.
    const fn part(self) -> Option<&'static str> {
        match self {
            Self::Subject => Some("subject"),
            Self::Text => Some("text"),
            Self::Html => Some("html"),
            Self::Slack | Self::Teams | Self::Webhook | Self::Preset(_) => None,
        }
    }

    fn file(self, name: &str) -> String {
        self.part().map_or_else(|| name.to_owned(), |part| format!("{name}.{part}"))
    }

    const fn is_json(self) -> bool {
        self.part().is_none()
    }

    /// How a printed value is written: added to what was written before.
    const fn escape(self) -> fn(&str, &mut String) {
        match self {
            Self::Slack | Self::Teams | Self::Webhook | Self::Preset(_) => taint::mark,
            Self::Subject | Self::Text => email::mark_line,
            Self::Html => email::mark_html,
        }
    }
}

fn is_partial(name: &str) -> bool {
    name.starts_with('_')
}

/// What a file of this name shows.
fn shape_of(name: &str) -> Shape {
    match name.rsplit('.').next() {
        Some("digest") => Shape::Digest,
        Some("notice") => Shape::Notice,
        _ => Shape::Event,
    }
}

/// The template that a file belongs to; `None` for those that serve all: partials, `digest` and `notice`.
fn template_of(file: &str) -> Option<&str> {
    let name = file.split_once('.').map_or(file, |(name, _)| name);
    let serves_all = is_partial(file) || (name == file && shape_of(file) != Shape::Event);
    (!serves_all).then_some(name)
}

/// One template file.
#[derive(Clone, Debug)]
struct Source {
    format: Format,
    name: String,
    path: Option<PathBuf>,
    text: String,
}

impl Source {
    fn error(&self, line: usize, column: usize, message: impl Into<String>, help: Option<String>) -> TemplateError {
        let is_field = self.path.is_none() && matches!(self.format, Format::Preset(_));
        TemplateError {
            path: self.path.as_deref().map(Into::into),
            channel: Some(self.format.channel()),
            // The fields of a preset are named like the template of each shape, but for one.
            name: if is_field && self.name == DEFAULT { "body".to_owned() } else { self.format.file(&self.name) },
            line,
            column,
            message: message.into(),
            help,
        }
    }
}

/// The templates of one format.
#[derive(Debug)]
struct Templates {
    registry: Handlebars<'static>,
    /// What is known of each.
    read: BTreeMap<String, Facts>,
    /// Files of the user's, as they are written.
    own: BTreeMap<String, Source>,
    /// Of those that need no handlebars.
    programs: BTreeMap<String, Program>,
    /// Likewise, of JSON templates.
    documents: BTreeMap<String, Program<Tokens>>,
}

impl Templates {
    /// `contexts` are samples of what its templates see, by shape.
    fn compile(
        format: Format,
        sources: &BTreeMap<String, &Source>,
        contexts: &[Value; 3],
    ) -> Result<Self, Vec<TemplateError>> {
        let mut registry = Handlebars::new();
        registry.set_strict_mode(true);
        registry.set_prevent_indent(true);
        registry.register_escape_fn(move |value| {
            let mut text = String::new();
            format.escape()(value, &mut text);
            text
        });
        helpers::register(&mut registry, format);
        let mut errors = Vec::new();
        let mut parsed: BTreeMap<String, Template> = BTreeMap::new();
        for (name, source) in sources {
            if let Err(error) = parse(&mut registry, source) {
                errors.push(error);
            } else if let Some(template) = registry.get_template(name) {
                parsed.insert(name.clone(), template.clone());
            }
        }
        let located = |finding: Finding| {
            let source = sources.get(&finding.file)?;
            Some(source.error(finding.line, finding.column, finding.message, finding.help))
        };
        // While a partial may reach itself nothing may follow it.
        let findings = template::check_partials(&parsed);
        if !errors.is_empty() || !findings.is_empty() {
            errors.extend(findings.into_iter().filter_map(located));
            return Err(errors);
        }
        let (mut read, mut findings) = (BTreeMap::new(), BTreeSet::new());
        // A partial is read where it is included: only there is known what its names stand for.
        for name in parsed.keys().filter(|name| !is_partial(name)) {
            let context = &contexts[shape_of(name) as usize];
            let (facts, found) = template::read(name, &parsed, context, format);
            read.insert(name.clone(), facts);
            findings.extend(found);
        }
        let errors: Vec<_> = findings.into_iter().filter_map(located).collect();
        if !errors.is_empty() {
            // Among them may be partials that are included too often to be read any further.
            return Err(errors);
        }
        let whole = parsed.iter().filter(|(name, _)| !is_partial(name));
        let quick = whole.filter_map(|(name, template)| Some((name.clone(), quick::read(template, &parsed)?)));
        let (mut programs, mut documents) = (BTreeMap::new(), BTreeMap::new());
        if format.is_json() {
            documents = quick.filter_map(|(name, program)| Some((name, program.tokenised()?))).collect();
        } else {
            programs = quick.collect();
        }
        let own = sources.iter().filter(|(_, source)| source.path.is_some());
        let own = own.map(|(name, source)| (name.clone(), (*source).clone())).collect();
        Ok(Self { registry, read, own, programs, documents })
    }

    /// The file that a template of this name has for a shape, or that serves instead of it.
    fn file_for(&self, name: &str, shape: Shape) -> String {
        let own = format!("{name}.{}", shape.name());
        match shape {
            Shape::Event if self.read.contains_key(name) => name.to_owned(),
            Shape::Event => DEFAULT.to_owned(),
            Shape::Digest if self.read.contains_key(&own) => own,
            Shape::Digest | Shape::Notice => shape.name().to_owned(),
        }
    }

    fn render(&self, format: Format, name: &str, context: &Context) -> Result<String, RenderError> {
        match self.by_program(format, name, context) {
            Some(text) => Ok(text),
            None => self.by_handlebars(format, name, context),
        }
    }

    fn by_program(&self, format: Format, name: &str, context: &Context) -> Option<String> {
        let event = context.event_as_read(self.read.get(name)?);
        self.programs.get(name)?.text(Scope::of(context, event.as_ref()), format.escape())
    }

    /// The document that a template renders, its values marked; `None` if it takes handlebars and a parser.
    fn document(&self, format: Format, name: &str, context: &Context) -> Option<Value> {
        let (program, facts) = (self.documents.get(name)?, self.read.get(name)?);
        let mut builder = Builder::new();
        match context.event() {
            Some(event) if format == Format::Webhook => {
                let shown = event_without_body(event, facts, context.when(), false);
                program.run(Scope::for_machines(context, &shown, event), &mut builder)?;
            }
            // Of a digest machines get more than the context has ready.
            None if format == Format::Webhook => {
                program.run(Scope::new(context.as_read(facts, true).data()), &mut builder)?;
            }
            _ => {
                let event = context.event_as_read(facts);
                program.run(Scope::of(context, event.as_ref()), &mut builder)?;
            }
        }
        builder.done()
    }

    fn by_handlebars(&self, format: Format, name: &str, context: &Context) -> Result<String, RenderError> {
        let none = Facts::default();
        let data = context.as_read(self.read.get(name).unwrap_or(&none), format == Format::Webhook);
        let mut out = Bounded { bytes: Vec::new() };
        self.registry.render_with_context_to_write(name, &data, &mut out).map_err(|error| {
            let place = match (error.line_no, error.column_no) {
                (Some(line), Some(column)) => Place::Line { line, column },
                _ => Place::Whole,
            };
            let file = error.template_name.as_deref().unwrap_or(name);
            let template = format!("{}/{}", format.channel(), format.file(file));
            RenderError { template, place, message: in_our_words(&error) }
        })?;
        // Both the template and the values are text, and whole writes are bounded, so this loses nothing.
        Ok(String::from_utf8_lossy(&out.bytes).into_owned())
    }
}

fn in_our_words(error: &handlebars::RenderError) -> String {
    use handlebars::RenderErrorReason as Reason;
    match error.reason() {
        Reason::MissingVariable(Some(name)) => format!("there is no `{name}` here"),
        Reason::MissingVariable(None) => "there is nothing of that name here".to_owned(),
        Reason::IOError(_) => format!("renders more than {OUTPUT_BYTES_MAX} bytes"),
        other => other.to_string(),
    }
}

fn parse(registry: &mut Handlebars<'static>, source: &Source) -> Result<(), TemplateError> {
    template::check_text(&source.name, &source.text)
        .map_err(|finding| source.error(finding.line, finding.column, finding.message, finding.help))?;
    registry.register_template_string(&source.name, &source.text).map_err(|error| {
        let (line, column) = error.pos().unwrap_or((1, 1));
        source.error(line, column, error.reason().to_string().trim_end().replace('\n', " "), None)
    })
}

/// What is wrong with rendered text, before the template's name is added.
#[derive(Debug)]
enum Fault {
    NotJson(taint::NotJson),
    Refused(taint::Refused),
    Limit(String),
}

impl From<taint::Refused> for Fault {
    fn from(refused: taint::Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Fault {
    fn of(self, format: Format, name: &str) -> RenderError {
        let template = format!("{}/{}", format.channel(), format.file(name));
        let (place, message) = match self {
            Self::NotJson(taint::NotJson { line, message }) => {
                (Place::Rendered { line }, format!("the result is not JSON: {message}"))
            }
            Self::Refused(taint::Refused { pointer, why }) => (Place::Pointer(pointer), why),
            Self::Limit(message) => (Place::Whole, message),
        };
        RenderError { template, place, message }
    }
}

/// Output that takes so much and no more.
struct Bounded {
    bytes: Vec<u8>,
}

impl Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn builtin_sources() -> Vec<Source> {
    macro_rules! files {
        ($($format:ident $name:literal $file:literal),* $(,)?) => {
            [$((Format::$format, $name, include_str!(concat!("../templates/", $file)))),*]
        };
    }
    let files = files![
        Slack "default" "slack/default.hbs",
        Slack "digest" "slack/digest.hbs",
        Slack "notice" "slack/notice.hbs",
        Teams "default" "teams/default.hbs",
        Teams "digest" "teams/digest.hbs",
        Teams "notice" "teams/notice.hbs",
        Webhook "default" "webhook/default.hbs",
        Webhook "digest" "webhook/digest.hbs",
        Webhook "notice" "webhook/notice.hbs",
        Subject "default" "email/default.subject.hbs",
        Subject "digest" "email/digest.subject.hbs",
        Subject "notice" "email/notice.subject.hbs",
        Text "default" "email/default.text.hbs",
        Text "digest" "email/digest.text.hbs",
        Text "notice" "email/notice.text.hbs",
        Html "_frame_top" "email/_frame_top.html.hbs",
        Html "_frame_end" "email/_frame_end.html.hbs",
        Html "default" "email/default.html.hbs",
        Html "digest" "email/digest.html.hbs",
        Html "notice" "email/notice.html.hbs",
    ];
    let source = |(format, name, text): (Format, &str, &str)| Source {
        format,
        name: name.to_owned(),
        path: None,
        text: text.to_owned(),
    };
    files.into_iter().map(source).collect()
}

/// What a preset brings along itself.
fn preset_sources(name: PresetName, service: &Service) -> Vec<Result<Source, TemplateError>> {
    let source = |(template, text): (&str, &str)| {
        let source =
            Source { format: Format::Preset(name), name: template.to_owned(), path: None, text: text.to_owned() };
        if text.len() as u64 > template::BYTES_MAX {
            return Err(source.error(1, 1, too_long(), None));
        }
        Ok(source)
    };
    service.templates().map(source).collect()
}

fn preset_complaints(name: PresetName, service: &Service) -> impl Iterator<Item = TemplateError> {
    service.complaints().into_iter().map(move |complaint| TemplateError {
        path: None,
        channel: Some(Channel::Http(name)),
        name: complaint.field.to_owned(),
        line: 1,
        column: 1,
        message: complaint.message,
        help: Some(complaint.help),
    })
}

fn too_long() -> String {
    format!("a template may have {} bytes", template::BYTES_MAX)
}

/// The channel whose templates a folder of this name holds.
fn channel_of(folder: &str, services: &BTreeMap<PresetName, Service>) -> Result<Channel, UnknownChannel> {
    let preset = services.keys().find(|name| name.as_str() == folder);
    preset.map_or_else(|| folder.parse(), |name| Ok(Channel::Http(*name)))
}

/// Every template file under `dir`, and every file or folder there that looks like one and is none.
fn read_dir(dir: &Path, services: &BTreeMap<PresetName, Service>) -> Vec<Result<Source, TemplateError>> {
    let mut found = Vec::new();
    match entries(dir) {
        Err(error) => found.push(Err(unreadable(dir, &error))),
        Ok(folders) => {
            for folder in folders {
                let channel = channel_of(&file_name(&folder), services);
                let files = entries(&folder)
                    .unwrap_or_default()
                    .into_iter()
                    .filter(|path| path.extension().is_some_and(|kind| kind == "hbs"));
                match channel {
                    Ok(channel) => found.extend(files.map(|path| read_file(channel, path))),
                    Err(unknown) if crate::preset::find(&unknown.0).is_some() => {}
                    // Those of services that nobody uses are left alone. Other folders are not ours to judge, unless someone misspelled a channel and would never know.
                    Err(unknown) => found.extend(files.map(|path| Err(stray(&path, unknown.to_string())))),
                }
            }
        }
    }
    found
}

/// What a folder holds, in order of names; nothing if it is a file.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_file(channel: Channel, path: PathBuf) -> Result<Source, TemplateError> {
    let file = file_name(&path);
    let stem = file.strip_suffix(".hbs").unwrap_or(&file);
    let own = match channel {
        Channel::Http(name) => Some(Format::Preset(name)),
        _ => None,
    };
    let parts = Format::ALL.into_iter().chain(own).filter(|format| format.channel() == channel);
    let named = parts.filter_map(|format| match format.part() {
        None => Some((format, stem)),
        Some(part) => stem.strip_suffix(part).and_then(|stem| stem.strip_suffix('.')).map(|name| (format, name)),
    });
    let good = |name: &str| {
        let named = |name: &&str| shape_of(name) == Shape::Event && !is_partial(name);
        let name = name.strip_suffix(".digest").filter(named).unwrap_or(name);
        let letters = name.strip_prefix('_').unwrap_or(name).bytes();
        (1..=64).contains(&name.len())
            && letters.clone().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && letters.clone().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_'))
    };
    let Some((format, name)) = named.clone().find(|(_, name)| good(name)) else {
        let form =
            if channel == Channel::Email { "NAME.subject.hbs, NAME.text.hbs or NAME.html.hbs" } else { "NAME.hbs" };
        return Err(stray(
            &path,
            format!("{channel} templates are named {form}; names are letters, digits, `-` and `_`"),
        ));
    };
    let name = name.to_owned();
    let mut text = String::new();
    let file = fs::File::open(&path).map_err(|error| unreadable(&path, &error))?;
    file.take(template::BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(&path, &error))?;
    if text.len() as u64 > template::BYTES_MAX {
        return Err(stray(&path, too_long()));
    }
    Ok(Source { format, name, path: Some(path), text })
}

fn unreadable(path: &Path, error: &io::Error) -> TemplateError {
    stray(path, format!("cannot be read: {error}"))
}

/// An error about a file as a whole.
fn stray(path: &Path, message: String) -> TemplateError {
    let channel = path.parent().and_then(|folder| file_name(folder).parse().ok());
    let name = file_name(path);
    let name = name.strip_suffix(".hbs").unwrap_or(&name).to_owned();
    TemplateError { path: Some(path.into()), channel, name, line: 1, column: 1, message, help: None }
}

/// A JSON document's members and their kinds, without its texts: what hostile text must not change. In chat an object's
/// `type` and `url` belong to it; elsewhere they are texts like any other.
fn outline(value: &Value, channel: Channel) -> Value {
    match value {
        Value::String(_) => json!("…"),
        Value::Array(items) => items.iter().map(|item| outline(item, channel)).collect(),
        Value::Object(members) => {
            let has_markup = matches!(channel, Channel::Slack | Channel::Teams);
            let kept = |name: &str| has_markup && matches!(name, "type" | "url");
            let member = |(name, member): (&String, &Value)| {
                let shape = if kept(name) { member.clone() } else { outline(member, channel) };
                (name.clone(), shape)
            };
            Value::Object(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}
