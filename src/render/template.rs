//! Reading templates: what may be written in one, checked before it is ever used.
//!
//! handlebars finds unknown helpers and partials only when it comes to them, ignores unknown names in `{{#if}}`, and a
//! cycle of partials takes the whole process down. So every template is read through here first: raw output, block and
//! dynamic partials, cycles, unknown helpers and names, and values in places that HTML does not allow are all refused, each
//! with its line and column. What passes is tried on sample events by [`Renderer`](super::Renderer).

use std::collections::{BTreeMap, BTreeSet};

use handlebars::Template;
use handlebars::template::{BlockParam, DecoratorTemplate, HelperTemplate, Parameter, TemplateElement};
use serde_json::Value;

use super::Format;
use super::helpers::{self, Block, JSON, LINK_TO, SHAPES};
use super::html::{ADDRESSES, Html};
use super::taint::has_mark;
use super::text::is_plain_url;

/// Templates are bounded before they are parsed, since handlebars recurses for each block, branch and call, and a stack that
/// overflows takes the process down: size, depth of blocks, `{{else if}}`s, depth of brackets in an expression.
pub(super) const BYTES_MAX: u64 = 64 * 1024;
const BLOCKS_DEPTH_MAX: usize = 32;
const BRANCHES_MAX: usize = 100;
const CALLS_DEPTH_MAX: usize = 32;
/// Blocks, branches and partials within each other, all together.
const DEPTH_MAX: usize = 150;
/// Parts of a template with all its partials, each as often as it is included: partials that include others twice, and those
/// others twice, would keep a reload busy for ever.
const ELEMENTS_MAX: usize = 20_000;

/// What reads fields to see whether they are there, or stands in for those that are not.
const ASKING: [&str; 9] = ["if", "unless", "with", "each", "default", "and", "or", "not", "eq"];

/// Something wrong at a place of a template file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    /// The template's name, within its format.
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// What was learned of a template that is in order.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The event-specific fields it reads: null for events without them.
    pub(super) fields: BTreeSet<String>,
    /// Of these the ones that it takes for granted, neither asking for them nor giving another value, with their first
    /// place: file, line and column.
    pub(super) relied_on: BTreeMap<String, (String, usize, usize)>,
    /// It reads `event.fields` as a group, or something that may be it.
    pub(super) all_fields: bool,
    /// It compares text, so its structure may depend on what the text says.
    pub(super) compares: bool,
}

/// Checks that can be made on the text alone.
pub(super) fn check_text(file: &str, text: &str) -> Result<(), Finding> {
    let finding = |at: usize, message: &str, help: Option<&str>| {
        let before = &text[..at];
        Finding {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
            message: message.to_owned(),
            help: help.map(str::to_owned),
        }
    };
    if let Some(at) = text.find(|letter: char| has_mark(letter.encode_utf8(&mut [0; 4]))) {
        return Err(finding(at, "the noncharacters U+FDD0 to U+FDD6 cannot be used in a template", None));
    }
    let (mut blocks, mut branches, mut inner) = (0_usize, 0_usize, None);
    for (at, letter) in text.char_indices() {
        if let Some(tag) = text[at..].strip_prefix("{{") {
            let tag = tag.trim_start_matches(['~', ' ']);
            match tag.chars().next() {
                Some('#') => blocks += 1,
                Some('/') => blocks = blocks.saturating_sub(1),
                _ => branches += usize::from(tag.starts_with("else ") || tag.starts_with('^')),
            }
            inner.get_or_insert(0);
        } else if text[at..].starts_with("}}") {
            inner = None;
        }
        inner = inner.map(|depth: usize| match letter {
            '(' | '[' | '{' => depth + 1,
            ')' | ']' | '}' => depth.saturating_sub(1),
            _ => depth,
        });
        if blocks > BLOCKS_DEPTH_MAX || branches > BRANCHES_MAX || inner.is_some_and(|depth| depth > CALLS_DEPTH_MAX) {
            return Err(finding(at, "nested too deep, or too many branches", Some("move an inner part to a partial")));
        }
    }
    Ok(())
}

/// Finds partials that are missing or reach themselves. Nothing may be rendered, or read on, while there are any.
pub(super) fn check_partials(templates: &BTreeMap<String, Template>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut uses: BTreeMap<&str, Vec<(String, usize, usize)>> = BTreeMap::new();
    for (file, template) in templates {
        let mut list = Vec::new();
        collect_partials(template, &mut list);
        list.retain(|(name, line, column)| {
            let exists = name.starts_with('_') && templates.contains_key(name);
            if !exists {
                let near = nearest(name, templates.keys().filter(|name| name.starts_with('_')).map(String::as_str));
                findings.push(Finding {
                    file: file.clone(),
                    line: *line,
                    column: *column,
                    message: format!("there is no partial `{name}`"),
                    help: near.or_else(|| Some("partials are files whose name begins with `_`".to_owned())),
                });
            }
            exists
        });
        uses.insert(file, list);
    }
    for file in uses.keys() {
        let mut reached = BTreeSet::new();
        let mut open = vec![*file];
        while let Some(at) = open.pop() {
            for (name, line, column) in uses.get(at).into_iter().flatten() {
                if name == file {
                    findings.push(Finding {
                        file: at.to_owned(),
                        line: *line,
                        column: *column,
                        message: format!("the partial `{file}` includes itself"),
                        help: None,
                    });
                }
                if let Some((name, _)) = uses.get_key_value(name.as_str())
                    && reached.insert(*name)
                {
                    open.push(name);
                }
            }
        }
    }
    findings
}

fn collect_partials(template: &Template, list: &mut Vec<(String, usize, usize)>) {
    for (at, element) in template.elements.iter().enumerate() {
        match element {
            TemplateElement::PartialExpression(partial) | TemplateElement::PartialBlock(partial) => {
                let (line, column) = place(template, at);
                if let Some(name) = partial_name(partial) {
                    list.push((name.to_owned(), line, column));
                }
                partial.template.iter().for_each(|inner| collect_partials(inner, list));
            }
            TemplateElement::HelperBlock(helper) => {
                helper.template.iter().chain(&helper.inverse).for_each(|inner| collect_partials(inner, list));
            }
            TemplateElement::DecoratorBlock(decorator) => {
                decorator.template.iter().for_each(|inner| collect_partials(inner, list));
            }
            _ => {}
        }
    }
}

fn partial_name(partial: &DecoratorTemplate) -> Option<&str> {
    match &partial.name {
        Parameter::Name(name) => Some(name),
        _ => None,
    }
}

fn place(template: &Template, at: usize) -> (usize, usize) {
    template.mapping.get(at).map_or((1, 1), |mapping| (mapping.0, mapping.1))
}

/// Reads one template to its end, with the partials it includes.
///
/// `context` is a sample of what templates of this format see.
/// The partials must have passed [`check_partials`].
pub(super) fn read(
    file: &str,
    templates: &BTreeMap<String, Template>,
    context: &Value,
    format: Format,
) -> (Facts, Vec<Finding>) {
    let root = Frame { scope: Scope { shape: Shape::Of(context), path: String::new() }, names: Vec::new() };
    let mut reader = Reader {
        templates,
        format,
        file: file.to_owned(),
        at: (1, 1),
        frames: vec![root],
        depth: 0,
        elements: 0,
        html: (format == Format::Html).then(Html::default),
        facts: Facts::default(),
        asked: Vec::new(),
        asking: None,
        findings: BTreeSet::new(),
    };
    if let Some(template) = templates.get(file) {
        reader.template(template);
    }
    if reader.html.as_ref().is_some_and(|html| !html.is_text()) {
        reader.find("a tag, comment or attribute is still open at the end".to_owned(), None);
    }
    (reader.facts, reader.findings.into_iter().collect())
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
enum Shape<'a> {
    Of(&'a Value),
    /// `event.fields`: any name is known.
    Fields,
    /// `event.body`: only as a whole.
    Body,
    /// A text, number or truth that nothing more is known of.
    Text,
    /// Not known, and not to be judged.
    Any,
}

#[derive(Clone, Debug)]
struct Scope<'a> {
    shape: Shape<'a>,
    /// From the context's root, `link.url`; empty when it did not come from there by name.
    path: String,
}

/// A scope that a block opens, with the names it gives to things.
#[derive(Debug)]
struct Frame<'a> {
    scope: Scope<'a>,
    names: Vec<(String, Scope<'a>)>,
}

struct Reader<'a> {
    templates: &'a BTreeMap<String, Template>,
    format: Format,
    file: String,
    at: (usize, usize),
    frames: Vec<Frame<'a>>,
    depth: usize,
    elements: usize,
    html: Option<Html>,
    facts: Facts,
    /// Fields that a block round this place asks for.
    asked: Vec<String>,
    /// Set while parameters are read of a call for which a field may be missing; then its fields come here.
    asking: Option<Vec<String>>,
    findings: BTreeSet<Finding>,
}

impl<'a> Reader<'a> {
    fn find(&mut self, message: String, help: Option<String>) {
        let (line, column) = self.at;
        self.findings.insert(Finding { file: self.file.clone(), line, column, message, help });
    }

    fn template(&mut self, template: &'a Template) {
        if self.depth == DEPTH_MAX {
            return self.find("blocks and partials are nested too deep".to_owned(), None);
        }
        self.elements += template.elements.len();
        if self.elements > ELEMENTS_MAX {
            return self.find("partials are included too often".to_owned(), None);
        }
        self.depth += 1;
        for (at, element) in template.elements.iter().enumerate() {
            self.at = place(template, at);
            self.element(element);
        }
        self.depth -= 1;
    }

    fn element(&mut self, element: &'a TemplateElement) {
        match element {
            TemplateElement::RawString(text) => {
                if let Some(Err(message)) = self.html.as_mut().map(|html| html.literal(text)) {
                    self.find(message, None);
                }
            }
            TemplateElement::Expression(expression) => self.expression(expression),
            TemplateElement::HtmlExpression(_) => {
                let help = "write {{…}}: values are escaped for the place where they stand";
                self.find("raw output (`{{{…}}}`, `{{&…}}`) is not allowed".to_owned(), Some(help.to_owned()));
            }
            TemplateElement::HelperBlock(block) => self.block(block),
            TemplateElement::DecoratorExpression(_) | TemplateElement::DecoratorBlock(_) => {
                let help = "put the part in a file whose name begins with `_` and include it with {{> _name}}";
                self.find("decorators and inline partials are not allowed".to_owned(), Some(help.to_owned()));
            }
            TemplateElement::PartialBlock(_) => {
                self.find("partials with a block are not allowed".to_owned(), Some("write {{> _name}}".to_owned()));
            }
            TemplateElement::PartialExpression(partial) => self.partial(partial),
            TemplateElement::Comment(_) => {}
            _ => self.find("this notation is not known here".to_owned(), None),
        }
    }

    /// `{{name}}` or `{{helper parameters…}}`.
    fn expression(&mut self, expression: &'a HelperTemplate) {
        // `{{link}}` alone is the member of that name.
        let helper = expression.name.as_name().filter(|name| *name != LINK_TO).and_then(|name| self.known_helper(name));
        let path = if expression.params.is_empty() && expression.hash.is_empty() && helper.is_none() {
            let Some(name) = expression.name.as_name() else {
                return self.find("a call cannot name what is printed".to_owned(), None);
            };
            let Some(scope) = self.resolve(name) else { return };
            if let Shape::Of(Value::Object(_) | Value::Array(_)) | Shape::Fields | Shape::Body = scope.shape {
                self.find(
                    format!("`{name}` is a group, not a text"),
                    Some(format!("name a member, as in {{{{{name}.…}}}}")),
                );
                return;
            }
            Some(scope.path)
        } else {
            self.call(expression, Block::Never, true);
            None
        };
        if let Some(Err(message)) = self.html.as_mut().map(|html| html.value(path.as_deref())) {
            self.find(message, None);
        }
    }

    fn known_helper(&self, name: &str) -> Option<&'static helpers::Shape> {
        SHAPES.iter().find(|shape| shape.name == name && helpers::is_known(name, self.format))
    }

    /// Checks a helper and its parameters; gives the scope of the first one.
    fn call(&mut self, call: &'a HelperTemplate, form: Block, outermost: bool) -> Option<Scope<'a>> {
        let Some(name) = call.name.as_name() else {
            self.find("a call cannot name a helper".to_owned(), None);
            return None;
        };
        let Some(helper) = self.known_helper(name) else {
            let known = SHAPES.iter().map(|shape| shape.name).filter(|name| helpers::is_known(name, self.format));
            let help = match name {
                JSON => Some("`json` is for webhook templates: elsewhere print texts".to_owned()),
                LINK_TO => Some("`link` is for chat and mail texts: here print {{link.url}}".to_owned()),
                name => nearest(name, known),
            };
            self.find(format!("there is no helper `{name}`"), help);
            return None;
        };
        if helper.block != form && helper.block != Block::Either {
            let right = if helper.block == Block::Always { "{{#…}} … {{/…}}" } else { "{{…}}" };
            self.find(format!("`{name}` is not used like this"), Some(format!("it is written {right}")));
        }
        if matches!(name, JSON | LINK_TO) && !outermost {
            self.find(format!("`{name}` cannot stand inside another call"), None);
        }
        let (least, most) = helper.parameters;
        if !(least..=most).contains(&call.params.len()) {
            let count = if least == most { least.to_string() } else { format!("{least} to {most}") };
            self.find(format!("`{name}` takes {count} parameters, here are {}", call.params.len()), None);
        }
        for option in call.hash.keys() {
            if !(option == "includeZero" && matches!(name, "if" | "unless")) {
                self.find(format!("`{name}` has no option `{option}`"), None);
            }
        }
        self.facts.compares |= helper.compares;
        let asks = self.asking.is_none() && ASKING.contains(&name);
        if asks {
            self.asking = Some(Vec::new());
        }
        let scopes: Vec<_> = call.params.iter().map(|parameter| self.parameter(parameter)).collect();
        self.fields_looked_up(name, &scopes, call);
        if asks && form == Block::Always {
            self.asked.extend(self.asking.take().into_iter().flatten());
        } else if asks {
            self.asking = None;
        }
        if name == LINK_TO {
            self.link(&scopes, call);
        }
        scopes.into_iter().next().flatten()
    }

    /// Where a link leads, and where it may stand.
    fn link(&mut self, scopes: &[Option<Scope<'a>>], call: &'a HelperTemplate) {
        let leads = match (call.params.first(), scopes.first()) {
            (Some(Parameter::Literal(Value::String(url))), _) => is_plain_url(url),
            (_, Some(Some(scope))) => ADDRESSES.contains(&scope.path.as_str()),
            _ => true,
        };
        if !leads {
            let help = "write {{link link.url …}}, {{link runbook …}}, or a whole address in quotes";
            self.find("a link may not lead where an event says".to_owned(), Some(help.to_owned()));
        }
        if self.html.as_ref().is_some_and(|html| !html.is_text()) {
            self.find("a link can stand only between tags".to_owned(), None);
        }
    }

    /// `{{lookup event.fields "name"}}` reads a field too.
    fn fields_looked_up(&mut self, helper: &str, scopes: &[Option<Scope<'a>>], call: &'a HelperTemplate) {
        if let (
            "lookup",
            Some(Some(Scope { shape: Shape::Fields, .. })),
            Some(Parameter::Literal(Value::String(name))),
        ) = (helper, scopes.first(), call.params.get(1))
        {
            self.reads(name);
        }
    }

    fn reads(&mut self, field: &str) {
        self.facts.fields.insert(field.to_owned());
        if let Some(asking) = &mut self.asking {
            asking.push(field.to_owned());
        } else if !self.asked.iter().any(|asked| asked == field) {
            let (line, column) = self.at;
            self.facts.relied_on.entry(field.to_owned()).or_insert((self.file.clone(), line, column));
        }
    }

    fn parameter(&mut self, parameter: &'a Parameter) -> Option<Scope<'a>> {
        match parameter {
            Parameter::Path(_) | Parameter::Name(_) => self.resolve(parameter.as_name().unwrap_or_default()),
            Parameter::Literal(_) => Some(Scope { shape: Shape::Text, path: String::new() }),
            Parameter::Subexpression(inner) => match inner.as_element() {
                TemplateElement::Expression(call) => {
                    self.call(call, Block::Never, false);
                    Some(Scope { shape: Shape::Any, path: String::new() })
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn block(&mut self, block: &'a HelperTemplate) {
        let (at, asked) = (self.at, self.asked.len());
        let scope = self.call(block, Block::Always, true);
        let name = block.name.as_name().unwrap_or_default();
        let inner = match (name, scope) {
            ("if" | "unless", Some(Scope { shape: Shape::Of(Value::Object(_)), path })) => {
                self.find(format!("`{path}` is always there"), Some(format!("ask for a member, as in {path}.…")));
                None
            }
            ("each", Some(scope)) => Some(self.items(&scope)),
            ("with", Some(scope)) => Some(scope),
            _ => None,
        };
        let names = self.block_names(block, inner.as_ref());
        let before = self.html.clone();
        let opens = matches!(name, "each" | "with");
        if opens {
            let scope = inner.unwrap_or(Scope { shape: Shape::Any, path: String::new() });
            self.frames.push(Frame { scope, names });
        }
        if let Some(template) = &block.template {
            self.template(template);
        }
        if opens {
            self.frames.pop();
        }
        let after = std::mem::replace(&mut self.html, before);
        if let Some(template) = &block.inverse {
            self.template(template);
        }
        self.asked.truncate(asked);
        if self.html != after {
            self.at = at;
            let message = format!("the branches of `{name}` end in different places of the document");
            self.find(message, Some("open and close tags and quotes within one branch".to_owned()));
        }
    }

    fn items(&mut self, list: &Scope<'a>) -> Scope<'a> {
        let shape = match list.shape {
            Shape::Of(Value::Array(items)) => items.first().map_or(Shape::Any, Shape::Of),
            Shape::Of(Value::Object(_)) | Shape::Any => Shape::Any,
            Shape::Fields | Shape::Body => Shape::Text,
            Shape::Of(_) | Shape::Text => {
                self.find(format!("`{}` is not a list", list.path), None);
                Shape::Any
            }
        };
        Scope { shape, path: String::new() }
    }

    /// `as |name index|`. A name of the context is refused: it would hide what the template means by it elsewhere.
    fn block_names(&mut self, block: &'a HelperTemplate, inner: Option<&Scope<'a>>) -> Vec<(String, Scope<'a>)> {
        let given = match &block.block_param {
            Some(BlockParam::Single(name)) => vec![name],
            Some(BlockParam::Pair((value, key))) => vec![value, key],
            _ => return Vec::new(),
        };
        let value = inner.cloned().unwrap_or(Scope { shape: Shape::Any, path: String::new() });
        let key = Scope { shape: Shape::Text, path: String::new() };
        let names: Vec<_> = given.into_iter().filter_map(|name| name.as_name().map(str::to_owned)).collect();
        for name in &names {
            self.check_new_name(name);
        }
        names.into_iter().zip([value, key]).collect()
    }

    fn check_new_name(&mut self, name: &str) {
        let taken = matches!(self.frames.first(), Some(Frame { scope: Scope { shape: Shape::Of(root), .. }, .. }) if root.get(name).is_some());
        if taken || self.known_helper(name).is_some() {
            self.find(format!("`{name}` means something else already"), Some("choose another name".to_owned()));
        }
    }

    fn partial(&mut self, partial: &'a DecoratorTemplate) {
        let Some(name) = partial_name(partial) else {
            let help = "name the file: {{> _name}}";
            return self.find("a partial's name cannot be computed".to_owned(), Some(help.to_owned()));
        };
        let Some((name, template)) = self.templates.get_key_value(name) else { return };
        let scope = match partial.params.first() {
            Some(parameter) => self.parameter(parameter),
            None => self.frames.last().map(|frame| frame.scope.clone()),
        };
        let mut names = Vec::new();
        for (name, parameter) in &partial.hash {
            self.check_new_name(name);
            let scope = self.parameter(parameter).unwrap_or(Scope { shape: Shape::Any, path: String::new() });
            names.push((name.clone(), scope));
        }
        let scope = scope.unwrap_or(Scope { shape: Shape::Any, path: String::new() });
        self.frames.push(Frame { scope, names });
        let (file, at) = (std::mem::replace(&mut self.file, name.clone()), self.at);
        self.template(template);
        (self.file, self.at) = (file, at);
        self.frames.pop();
    }

    /// What a name stands for here; a finding if nothing.
    fn resolve(&mut self, raw: &str) -> Option<Scope<'a>> {
        let (raw, from_root) = match raw.strip_prefix("@root") {
            Some(rest) => (rest.trim_start_matches(['.', '/']), true),
            None => (raw, false),
        };
        if let Some(variable) = raw.strip_prefix('@') {
            return self.variable(variable);
        }
        let mut steps: Vec<String> = steps(raw);
        let ups = steps.iter().take_while(|step| *step == "..").count();
        steps.drain(..ups);
        let Some(level) = self.frames.len().checked_sub(1 + ups) else {
            self.find(format!("`{raw}` leads out of the template"), None);
            return None;
        };
        let named = || {
            let first = steps.first().filter(|_| ups == 0 && !from_root)?;
            let names = self.frames.iter().rev().flat_map(|frame| &frame.names);
            names.clone().find(|(name, _)| name == first).map(|(_, scope)| scope.clone())
        };
        let (mut scope, skip) = match named() {
            Some(scope) => (scope, 1),
            None => (self.frames[if from_root { 0 } else { level }].scope.clone(), 0),
        };
        for step in steps.iter().skip(skip) {
            self.facts.all_fields |= matches!(scope.shape, Shape::Any);
            scope = self.member(&scope, step)?;
        }
        self.facts.all_fields |= matches!(scope.shape, Shape::Fields | Shape::Any);
        Some(scope)
    }

    fn variable(&mut self, name: &str) -> Option<Scope<'a>> {
        let name = name.trim_start_matches("../");
        if matches!(name, "index" | "first" | "last" | "key") {
            return Some(Scope { shape: Shape::Text, path: String::new() });
        }
        self.find(format!("there is no variable `@{name}`"), nearest(name, ["index", "first", "last", "key", "root"]));
        None
    }

    fn member(&mut self, scope: &Scope<'a>, name: &str) -> Option<Scope<'a>> {
        let path = if scope.path.is_empty() { name.to_owned() } else { format!("{}.{name}", scope.path) };
        let found = |shape| Some(Scope { shape, path: path.clone() });
        match scope.shape {
            Shape::Any => Some(Scope { shape: Shape::Any, path: String::new() }),
            Shape::Fields => {
                self.reads(name);
                found(Shape::Text)
            }
            Shape::Body => {
                let help = format!("write event.fields.{name}; the body is for {{{{json event.body}}}}");
                self.find("`event.body` is only used as a whole".to_owned(), Some(help));
                None
            }
            Shape::Of(Value::Object(members)) => match members.get_key_value(name) {
                Some(_) if path == "event.fields" => found(Shape::Fields),
                Some(_) if path == "event.body" => found(Shape::Body),
                Some((_, value)) => found(Shape::Of(value)),
                None => {
                    let mut help = nearest(name, members.keys().map(String::as_str));
                    if path == format!("event.{name}") && help.is_none() {
                        help = Some(format!("an event-specific field is event.fields.{name}"));
                    }
                    self.find(format!("there is no `{path}`"), help);
                    None
                }
            },
            Shape::Of(Value::Array(items)) if name.parse::<usize>().is_ok() => {
                Some(Scope { shape: items.first().map_or(Shape::Any, Shape::Of), path: String::new() })
            }
            Shape::Of(_) | Shape::Text => {
                let message = if scope.path.is_empty() {
                    format!("there is no `{name}` here: a text has no members")
                } else {
                    format!("`{}` has no members", scope.path)
                };
                let of_root = matches!(self.frames.first(), Some(Frame { scope: Scope { shape: Shape::Of(root), .. }, .. }) if root.get(name).is_some());
                self.find(message, of_root.then(|| format!("write @root.{name}")));
                None
            }
        }
    }
}

/// `../a.[b c]/d` → `..`, `a`, `b c`, `d`; `this` and `.` stand for nothing.
fn steps(raw: &str) -> Vec<String> {
    let mut list = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let (step, after) = if let Some(inner) = rest.strip_prefix('[') {
            inner.split_once(']').unwrap_or((inner, ""))
        } else if let Some(after) = rest.strip_prefix("..") {
            ("..", after)
        } else {
            let end = rest.find(['.', '/']).unwrap_or(rest.len());
            rest.split_at(end)
        };
        if !step.is_empty() && step != "this" {
            list.push(step.to_owned());
        }
        rest = after.strip_prefix(['.', '/']).unwrap_or(after);
    }
    list
}

/// `did you mean …?`, if a known name is near.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let length = name.chars().count();
    let limit = if length <= 3 { 1 } else { length / 3 + 1 };
    let near = known.into_iter().map(|known| (distance(name, known), known)).filter(|(far, _)| *far <= limit);
    near.min().map(|(_, known)| format!("did you mean `{known}`?"))
}

/// Insertions, deletions and changes between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_steps() {
        let cases: [(&str, &[&str]); 7] = [
            ("a.b", &["a", "b"]),
            ("../a/b", &["..", "a", "b"]),
            ("../../a", &["..", "..", "a"]),
            ("this", &[]),
            ("this.a", &["a"]),
            ("./a", &["a"]),
            ("event.fields.[a.b c]", &["event", "fields", "a.b c"]),
        ];
        for (raw, expected) in cases {
            assert_eq!(steps(raw), expected, "{raw}");
        }
    }

    #[test]
    fn near_names() {
        assert_eq!(nearest("hedline", ["title", "headline"]).as_deref(), Some("did you mean `headline`?"));
        assert_eq!(nearest("headline", ["x", "footer"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
