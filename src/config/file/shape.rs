//! What each value of a rules file must look like, and what to write instead of one that looks otherwise.
//!
//! The shapes are those of the types that the tables are made of, so that nothing is said twice. The reading itself stops
//! at the first value of a wrong shape; here all are found at once, with the setting's name and an example to paste. A
//! value is repeated only where it is plainly what the setting is about: a duration, a destination's name.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::fault::PRESET_HELP;
use super::read::{Node, Scalar, Tree};
use super::{At, Entries, Fault, Faults, File, Many, Reference, Sp, Span, Written};
use crate::catalogue;
use crate::config::problem::quoted;
use crate::config::secrets::is_plain_name;
use crate::model::Severity;
use crate::model::key::KeyPattern;
use crate::preset::Preset;

/// What a value must look like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Any scalar.
    Text,
    Flag,
    /// A scalar, or a list of scalars.
    Many,
    /// A scalar, or where it is kept.
    Secret,
    List(&'static Shape),
    /// A table whose names the user chooses.
    Names(&'static Shape),
    Table(&'static [Setting]),
    /// A table that is read elsewhere.
    Preset,
}

/// A field of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// A value of this shape.
    pub(super) example: &'static str,
}

/// What is written in one shape.
pub(super) trait Shaped {
    const SHAPE: Shape;
}

impl Shaped for String {
    const SHAPE: Shape = Shape::Text;
}

impl Shaped for bool {
    const SHAPE: Shape = Shape::Flag;
}

impl Shaped for Many {
    const SHAPE: Shape = Shape::Many;
}

impl Shaped for Written {
    const SHAPE: Shape = Shape::Secret;
}

impl Shaped for Preset {
    const SHAPE: Shape = Shape::Preset;
}

impl<T: Shaped> Shaped for Sp<T> {
    const SHAPE: Shape = T::SHAPE;
}

impl<T: Shaped> Shaped for Vec<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);
}

impl<T: Shaped> Shaped for Entries<T> {
    const SHAPE: Shape = Shape::Names(&T::SHAPE);
}

/// Nobody reads more.
const FAULTS_MAX: usize = 100;

/// Everything of a wrong shape; `None` if nothing is.
pub(super) fn faults(file: &Tree) -> Option<Faults> {
    let keys = names(file);
    let names = keys.iter().map(|key| key.value.as_str()).collect();
    let mut search = Search { names: &names, found: Vec::new() };
    search.look(file, &File::SHAPE, &What { name: None, example: "", of: "" });
    let list = search.found;
    if list.is_empty() {
        return None;
    }
    let mut spans: Vec<_> = keys.iter().filter_map(|key| key.at).chain(mentions(file, &names)).collect();
    spans.sort_unstable_by_key(|span| span.start);
    Some(Faults { list, names: spans })
}

/// Adds the name of the setting to what is wrong inside a preset, whose shapes are not known here.
pub(super) fn within_preset(file: &Tree, fault: Fault) -> Fault {
    let Some((name, value)) = fault.at.and_then(|at| innermost(file, at.start)) else { return fault };
    Fault {
        title: format!("{}: {}", shown(&name.value), fault.title),
        label: if fault.at == value.at { format!("this is {}", kind(&value.node)) } else { fault.label },
        help: PRESET_HELP.to_owned(),
        ..fault
    }
}

/// The innermost field that stands at this place, or has its value there.
fn innermost(tree: &Tree, start: usize) -> Option<(&Sp<String>, &Tree)> {
    let starts = |at: At| at.is_some_and(|at| at.start == start);
    match &tree.node {
        Node::Nothing | Node::Scalar(..) => None,
        Node::List(items) => items.iter().find_map(|item| innermost(item, start)),
        Node::Table(fields) => fields.iter().find_map(|(name, value)| {
            let is_item = || matches!(&value.node, Node::List(items) if items.iter().any(|item| starts(item.at)));
            let found = || (starts(name.at) || starts(value.at) || is_item()).then_some((name, value));
            innermost(value, start).or_else(found)
        }),
    }
}

/// What is looked at.
struct What<'a> {
    /// `None`: the file.
    name: Option<&'a str>,
    example: &'a str,
    /// The setting that it stands in.
    of: &'a str,
}

struct Search<'t> {
    /// Of sources and destinations.
    names: &'t HashSet<&'t str>,
    found: Vec<Fault>,
}

const EITHER: &str =
    "write one pattern or a list of them; all of `when` must hold, for either of several write a rule for each";

impl Search<'_> {
    fn look(&mut self, tree: &Tree, shape: &Shape, what: &What<'_>) {
        match (shape, &tree.node) {
            (Shape::Text | Shape::Many | Shape::Secret, Node::Scalar(..))
            | (Shape::Flag, Node::Scalar(Scalar::Flag, _))
            | (Shape::Preset, Node::Table(_)) => {}
            (Shape::Many, Node::List(items)) => self.items(items, &Shape::Text, what),
            (Shape::List(shape), Node::List(items)) => self.items(items, shape, what),
            (Shape::Secret, Node::Table(fields)) => self.table(fields, &Reference::SHAPE, what),
            (Shape::Table(_) | Shape::Names(_), Node::Table(fields)) => self.table(fields, shape, what),
            _ => self.wrong(tree, shape, what),
        }
    }

    fn table(&mut self, fields: &[(Sp<String>, Tree)], shape: &Shape, what: &What<'_>) {
        let of = what.name.unwrap_or_default();
        for (at, (name, value)) in fields.iter().enumerate() {
            let (shape, example) = match shape {
                Shape::Names(shape) => (*shape, entry(what.example)),
                Shape::Table(settings) => {
                    let Some(setting) = settings.iter().find(|setting| setting.name == name.value) else { continue };
                    // The first counts; that there are two is told once the shapes are right.
                    if fields[..at].iter().any(|(earlier, _)| earlier.value == name.value) {
                        continue;
                    }
                    (&setting.shape, setting.example)
                }
                _ => continue,
            };
            // That there is nothing is told once the shapes are right.
            if !matches!(value.node, Node::Nothing) {
                self.look(value, shape, &What { name: Some(&name.value), example, of });
            }
        }
    }

    fn items(&mut self, items: &[Tree], shape: &Shape, what: &What<'_>) {
        for item in items {
            match (shape, &item.node) {
                (Shape::Text, Node::Scalar(..)) => {}
                (Shape::Table(_), Node::Table(fields)) => self.table(fields, shape, what),
                _ => self.wrong_item(item, shape, what),
            }
        }
    }

    fn wrong_item(&mut self, item: &Tree, shape: &Shape, what: &What<'_>) {
        let name = what.name.map(shown).unwrap_or_default();
        let title = format!("each entry of {name} is {}, not {}", wanted(shape), kind(&item.node));
        let help = match (shape, what.example.strip_prefix('[').and_then(|inside| inside.strip_suffix(']'))) {
            (Shape::Table(_), Some(example)) => format!("write `- {example}`"),
            _ if what.of == "when" => EITHER.to_owned(),
            _ => format!("write `{}: {}`", plain(what.name), what.example),
        };
        self.tell(title, item, help);
    }

    fn wrong(&mut self, tree: &Tree, shape: &Shape, what: &What<'_>) {
        let Some(name) = what.name else {
            let title = format!("a rules file is a table, not {}", kind(&tree.node));
            let help = "start from rules.example.yaml; `sources`, `destinations`, `rules` and `unrouted` are needed";
            return self.tell(title, tree, help.to_owned());
        };
        let title = format!("{} takes {}, not {}", shown(name), wanted(shape), kind(&tree.node));
        self.tell(title, tree, self.help(tree, shape, what));
    }

    fn tell(&mut self, title: String, tree: &Tree, help: String) {
        if self.found.len() >= FAULTS_MAX {
            return;
        }
        let label = format!("this is {}", kind(&tree.node));
        self.found.push(Fault { code: "wrong-type", title, label, help, at: tree.at });
    }

    fn help(&self, tree: &Tree, shape: &Shape, what: &What<'_>) -> String {
        let name = plain(what.name);
        match (shape, &tree.node) {
            (Shape::Preset, _) => {
                "write its settings, as in docs/PRESETS.md; for a service that halo-relay knows, write `type: discord`, without `preset`"
                    .to_owned()
            }
            (Shape::Many, Node::Table(_)) if what.of == "when" && name != "key" => {
                format!("write one pattern or a list of them; a field within a field is named with a dot, like `{name}.port: 22`")
            }
            (Shape::Flag, Node::Scalar(_, text)) => {
                let no = ["no", "off", "n", "false"].contains(&text.to_lowercase().as_str());
                format!("write `{name}: {}`", !no)
            }
            _ => {
                let meant = self.meant(tree, name);
                format!("write `{name}: {}`", meant.as_deref().unwrap_or(what.example))
            }
        }
    }

    /// What somebody means who writes only the most important of a table's settings.
    fn meant(&self, tree: &Tree, name: &str) -> Option<String> {
        let (items, is_list) = match &tree.node {
            Node::Scalar(_, value) => (vec![value.as_str()], false),
            Node::List(items) => {
                let texts = items.iter().map(|item| match &item.node {
                    Node::Scalar(_, text) => Some(text.as_str()),
                    _ => None,
                });
                (texts.collect::<Option<Vec<_>>>()?, true)
            }
            _ => return None,
        };
        let all = |good: &dyn Fn(&str) -> bool| !items.is_empty() && items.iter().all(|item| good(item));
        let one = (!is_list).then(|| items.first().copied()).flatten();
        let is_destination = |text: &str| self.names.contains(text);
        let is_duration = |text: &str| humantime::parse_duration(text).is_ok();
        let quoted = || items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
        match (name, one) {
            ("fallback", Some(to)) if is_destination(to) => Some(format!("{{ to: {to}, after: 5m }}")),
            ("unrouted", _) if all(&is_destination) => Some(format!("{{ send: [{}] }}", items.join(", "))),
            ("unrouted", Some("drop")) => Some("{ drop: the reason }".to_owned()),
            ("batch", Some(wait)) if is_duration(wait) => Some(format!("{{ wait: {wait} }}")),
            ("batch", _) if all(&is_known_field) => Some(format!("{{ by: [{}] }}", items.join(", "))),
            ("retention", Some(ended)) if is_duration(ended) => Some(format!("{{ ended: {ended} }}")),
            ("defaults", Some(severity)) if severity.parse::<Severity>().is_ok() => {
                Some(format!("{{ severity: {severity} }}"))
            }
            ("admin", Some(listen)) if listen.parse::<SocketAddr>().is_ok() => Some(format!("{{ listen: {listen} }}")),
            ("when", Some(glob)) if is_known_glob(glob) => Some(format!("{{ key: \"{glob}\" }}")),
            ("when", None) if all(&is_known_glob) => Some(format!("{{ key: [{}] }}", quoted())),
            _ => None,
        }
    }
}

fn is_known_field(text: &str) -> bool {
    text == "target" || catalogue::all().iter().any(|known| known.fields().any(|field| field == text))
}

/// Whether some known key matches, or is excluded.
fn is_known_glob(text: &str) -> bool {
    KeyPattern::parse(text).is_ok_and(|pattern| catalogue::all().iter().any(|known| pattern.glob().matches(known.key)))
}

/// The value of the first entry of an example of a table of names.
fn entry(example: &str) -> &str {
    let inside = example.trim_start_matches("{ ").strip_suffix(" }").unwrap_or(example);
    inside.split_once(": ").map_or(example, |(_, value)| value)
}

/// A name the user chose may be a secret out of its place.
fn plain(name: Option<&str>) -> &str {
    name.filter(|name| is_plain_name(name)).unwrap_or("NAME")
}

fn shown(name: &str) -> String {
    if is_plain_name(name) { quoted(name) } else { "this".to_owned() }
}

fn wanted(shape: &Shape) -> &'static str {
    match shape {
        Shape::Text => "a text",
        Shape::Flag => "`true` or `false`",
        Shape::Many => "a text or a list of texts",
        Shape::Secret => "a secret, like { env: NAME }",
        Shape::List(_) => "a list",
        Shape::Names(_) | Shape::Table(_) | Shape::Preset => "a table",
    }
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::Nothing => "nothing",
        Node::Scalar(Scalar::Text, _) => "a text",
        Node::Scalar(Scalar::Number, _) => "a number",
        Node::Scalar(Scalar::Flag, _) => "a truth value",
        Node::List(_) => "a list",
        Node::Table(_) => "a table",
    }
}

/// The names of sources and destinations that have settings.
fn names(file: &Tree) -> Vec<&Sp<String>> {
    let Node::Table(sections) = &file.node else { return Vec::new() };
    let sections = sections.iter().filter(|(name, _)| ["sources", "destinations"].contains(&name.value.as_str()));
    let tables = sections.filter_map(|(_, section)| match &section.node {
        Node::Table(entries) => Some(entries.iter()),
        _ => None,
    });
    let entries = tables.flatten().filter(|(_, entry)| matches!(entry.node, Node::Table(_)));
    entries.map(|(name, _)| name).filter(|name| is_plain_name(&name.value)).collect()
}

/// Where these names stand as values.
fn mentions(tree: &Tree, names: &HashSet<&str>) -> Vec<Span> {
    match &tree.node {
        Node::Scalar(_, text) if names.contains(text.as_str()) => tree.at.into_iter().collect(),
        Node::Scalar(..) | Node::Nothing => Vec::new(),
        Node::List(items) => items.iter().flat_map(|item| mentions(item, names)).collect(),
        Node::Table(fields) => fields.iter().flat_map(|(_, value)| mentions(value, names)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::{
        Admin, Batch, Defaults, Destination, Fallback, Links, MailApi, Retention, Rule, Smtp, Source, Unrouted,
        options, parse,
    };

    /// Each table, and a file in which `%` stands for its fields.
    const TABLES: [(Shape, &str); 14] = [
        (File::SHAPE, "%"),
        (Source::SHAPE, "sources: { a: { % } }"),
        (Destination::SHAPE, "destinations: { a: { % } }"),
        (Fallback::SHAPE, "destinations: { a: { fallback: { % } } }"),
        (Smtp::SHAPE, "destinations: { a: { smtp: { % } } }"),
        (MailApi::SHAPE, "destinations: { a: { api: { % } } }"),
        (Reference::SHAPE, "sources: { a: { token: { % } } }"),
        (Admin::SHAPE, "admin: { % }"),
        (Retention::SHAPE, "retention: { % }"),
        (Links::SHAPE, "links: { % }"),
        (Defaults::SHAPE, "defaults: { % }"),
        (Rule::SHAPE, "rules: [{ % }]"),
        (Batch::SHAPE, "rules: [{ batch: { % } }]"),
        (Unrouted::SHAPE, "unrouted: { % }"),
    ];

    fn settings() -> Vec<(Setting, &'static str)> {
        let of = |(shape, file): (Shape, &'static str)| match shape {
            Shape::Table(settings) => settings.iter().map(|setting| (*setting, file)).collect(),
            _ => Vec::new(),
        };
        TABLES.into_iter().flat_map(of).collect()
    }

    fn found(text: &str) -> Vec<Fault> {
        let tree: Tree = serde_saphyr::from_str_with_options(text, options()).unwrap();
        faults(&tree).map(|faults| faults.list).unwrap_or_default()
    }

    #[test]
    fn examples_can_be_pasted() {
        let settings = settings();
        assert!(settings.len() > 80);
        for (setting, file) in settings.iter().filter(|(setting, _)| !matches!(setting.shape, Shape::Preset)) {
            let text = file.replace('%', &format!("{}: {}", setting.name, setting.example));
            assert!(parse(&text).is_ok(), "{text}");
            if let Shape::Names(_) = setting.shape {
                let text = file.replace('%', &format!("{}: {{ x: {} }}", setting.name, entry(setting.example)));
                assert!(parse(&text).is_ok(), "{text}");
            }
        }
    }

    /// Else a file that can be read would be refused for its shape, or one that cannot would get no help.
    #[test]
    fn shapes_are_what_is_read() {
        let values = ["x", "'5'", "0.5", "true", "yes", "~", "[]", "[5, x]", "[~]", "[[x]]", "[{ a: b }]"];
        let tables = ["{}", "{ a: x }", "{ a: ~ }", "{ a: [x] }", "{ a: { b: { c: d } } }"];
        for (setting, file) in settings() {
            let tables = tables.iter().filter(|_| !matches!(setting.shape, Shape::Preset));
            for value in values.iter().chain(tables) {
                let text = file.replace('%', &format!("{}: {value}", setting.name));
                assert_eq!(parse(&text).is_err(), !found(&text).is_empty(), "{text}: {:?}", found(&text));
            }
        }
    }

    #[test]
    fn nothing_secret_is_repeated() {
        for (setting, file) in settings() {
            for value in
                ["hunter2", "[hunter2]", "[[hunter2]]", "[{ hunter2: x }]", "{ hunter2: { x: { y: hunter2 } } }"]
            {
                let text = file.replace('%', &format!("{}: {value}", setting.name));
                let found = format!("{:?}", found(&text));
                assert!(!found.contains("hunter2"), "{text}: {found}");
            }
        }
    }

    #[test]
    fn what_is_meant_is_written_out() {
        let cases = [
            ("batch: 45s", "{ wait: 45s }"),
            ("batch: [target, port]", "{ by: [target, port] }"),
            ("batch: target", "{ by: [target] }"),
            ("batch: soon", "{ by: [target], wait: 30s, max: 50 }"),
            ("batch: 5", "{ by: [target], wait: 30s, max: 50 }"),
            ("stop: no", "false"),
            ("stop: 1", "true"),
            ("when: 'website-cert-*'", "{ key: \"website-cert-*\" }"),
            ("when: ['*-port-add', '!issue-*']", "{ key: [\"*-port-add\", \"!issue-*\"] }"),
            ("when: [www.example.org]", "{ key: \"website-cert-*\" }"),
        ];
        for (written, expected) in cases {
            let found = found(&format!("rules: [{{ {written} }}]"));
            let name = written.split(':').next().unwrap();
            assert_eq!(found[0].help, format!("write `{name}: {expected}`"), "{written}");
        }
        let cases = [
            ("unrouted: [a]", "unrouted: { send: [a] }"),
            ("unrouted: b", "unrouted: { send: [it-teams] }"),
            ("unrouted: drop", "unrouted: { drop: the reason }"),
            ("retention: 7d", "retention: { ended: 7d }"),
            ("defaults: high", "defaults: { severity: high }"),
            ("admin: '[::1]:80'", "admin: { listen: [::1]:80 }"),
            ("admin: 8791", "admin: { listen: 127.0.0.1:8791 }"),
        ];
        for (written, expected) in cases {
            let found = found(&format!("destinations: {{ a: {{}} }}\n{written}"));
            assert_eq!(found[0].help, format!("write `{expected}`"), "{written}");
        }
    }
}
