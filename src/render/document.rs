//! The JSON document that a template's program builds, without the text in between.
//!
//! At load a template's literals are read into [`Tokens`]; when it runs, they and the values build the document
//! ([`Builder`]). The result is the one that [`taint::parse`](super::taint::parse) makes of the rendered text, marks
//! included, or nothing at all: whatever does not fit together here is rendered and parsed after all, and so are all errors.

use serde_json::{Map, Value};

use super::OUTPUT_BYTES_MAX;
use super::quick::Output;
use super::taint::{encode, mark_as_is};

/// A part of a template that is literal, as it stands in JSON.
#[derive(Debug)]
pub(super) struct Tokens {
    list: Vec<Token>,
    /// How long it was as text.
    bytes: usize,
}

#[derive(Debug)]
enum Token {
    OpenObject,
    OpenArray,
    CloseObject,
    CloseArray,
    Colon,
    Comma,
    /// One end of a string that is not whole here.
    Quote,
    /// What is literal in such a string.
    Part(String),
    /// A literal, whole.
    Scalar(Value),
}

/// Where the reading of literals stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lexer {
    pub(super) in_string: bool,
}

impl Lexer {
    /// `None` if it is not JSON.
    pub(super) fn read(&mut self, text: &str) -> Option<Tokens> {
        let mut list = Vec::new();
        let mut rest = text;
        loop {
            if self.in_string {
                rest = self.string(rest, &mut list)?;
            }
            rest = rest.trim_start_matches(SPACE);
            let Some(first) = rest.chars().next() else { break };
            let mut length = 1;
            match first {
                '{' => list.push(Token::OpenObject),
                '[' => list.push(Token::OpenArray),
                '}' => list.push(Token::CloseObject),
                ']' => list.push(Token::CloseArray),
                ':' => list.push(Token::Colon),
                ',' => list.push(Token::Comma),
                '"' => {
                    list.push(Token::Quote);
                    self.in_string = true;
                }
                _ => {
                    // What stands beside might be a part of it, as in `1{{#if late}}2{{/if}}`: then the builder meets two values
                    // in a row, and gives up.
                    let end = rest.find(|letter| SPACE.contains(&letter) || "{}[]:,\"".contains(letter));
                    length = end.unwrap_or(rest.len());
                    list.push(Token::Scalar(serde_json::from_str(&rest[..length]).ok()?));
                }
            }
            rest = &rest[length..];
        }
        Some(Tokens { list, bytes: text.len() })
    }

    /// Reads the rest of a string, or as much of it as there is; gives what follows.
    fn string<'t>(&mut self, text: &'t str, list: &mut Vec<Token>) -> Option<&'t str> {
        let mut escaped = false;
        let end = text.bytes().position(|byte| {
            let quote = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            quote
        });
        let inner = &text[..end.unwrap_or(text.len())];
        let part: String = serde_json::from_str(&format!("\"{inner}\"")).ok()?;
        let whole = matches!(list.last(), Some(Token::Quote));
        match end {
            Some(_) if whole => {
                list.pop();
                list.push(Token::Scalar(Value::String(part)));
            }
            Some(_) => list.extend([Token::Part(part), Token::Quote]),
            None => list.push(Token::Part(part)),
        }
        self.in_string = end.is_none();
        Some(end.map_or("", |end| &text[end + 1..]))
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8259#section-2>
const SPACE: [char; 4] = [' ', '\n', '\r', '\t'];

/// A document that is being built.
pub(super) struct Builder {
    /// The objects and lists that stand open, the innermost last.
    open: Vec<Open>,
    /// A string that stands open.
    text: Option<String>,
    whole: Option<Value>,
    /// How many bytes more it may have as text.
    room: usize,
}

struct Open {
    made: Made,
    next: Next,
}

enum Made {
    Array(Vec<Value>),
    Object {
        members: Map<String, Value>,
        /// Of the member that comes next.
        name: String,
    },
}

/// What may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    ItemOrEnd,
    Item,
    Colon,
    Value,
    CommaOrEnd,
}

/// Within each other, as far as they are followed here: parsers stop at 128.
const DEPTH_MAX: usize = 100;

impl Builder {
    pub(super) fn new() -> Self {
        Self { open: Vec::with_capacity(8), text: None, whole: None, room: OUTPUT_BYTES_MAX }
    }

    /// The document, if it is whole.
    pub(super) fn done(self) -> Option<Value> {
        self.whole.filter(|_| self.open.is_empty() && self.text.is_none())
    }

    fn token(&mut self, token: &Token) -> Option<()> {
        match token {
            Token::OpenObject => self.begin(Made::Object { members: Map::with_capacity(8), name: String::new() }),
            Token::OpenArray => self.begin(Made::Array(Vec::new())),
            Token::CloseObject | Token::CloseArray => self.end(matches!(token, Token::CloseArray)),
            Token::Colon => self.step(Next::Colon, Next::Value),
            Token::Comma => self.step(Next::CommaOrEnd, Next::Item),
            Token::Quote => {
                if let Some(text) = self.text.take() {
                    return self.place(Value::String(text));
                }
                self.text = Some(String::with_capacity(64));
                Some(())
            }
            Token::Part(part) => {
                self.text.as_mut()?.push_str(part);
                Some(())
            }
            Token::Scalar(value) => self.place(value.clone()),
        }
    }

    fn begin(&mut self, made: Made) -> Option<()> {
        self.open.push(Open { made, next: Next::ItemOrEnd });
        (self.open.len() <= DEPTH_MAX).then_some(())
    }

    fn end(&mut self, of_array: bool) -> Option<()> {
        let open = self.open.pop().filter(|open| matches!(open.next, Next::ItemOrEnd | Next::CommaOrEnd))?;
        match open.made {
            Made::Array(items) if of_array => self.place(Value::Array(items)),
            Made::Object { members, .. } if !of_array => self.place(Value::Object(members)),
            _ => None,
        }
    }

    fn step(&mut self, from: Next, to: Next) -> Option<()> {
        let open = self.open.last_mut().filter(|open| open.next == from)?;
        open.next = to;
        Some(())
    }

    fn place(&mut self, value: Value) -> Option<()> {
        let Some(Open { made, next }) = self.open.last_mut() else {
            return self.whole.replace(value).is_none().then_some(());
        };
        *next = match (made, *next, value) {
            (Made::Array(items), Next::ItemOrEnd | Next::Item, value) => {
                items.push(value);
                Next::CommaOrEnd
            }
            (Made::Object { name, .. }, Next::ItemOrEnd | Next::Item, Value::String(text)) => {
                *name = text;
                Next::Colon
            }
            (Made::Object { members, name }, Next::Value, value) => {
                members.insert(std::mem::take(name), value);
                Next::CommaOrEnd
            }
            _ => return None,
        };
        Some(())
    }

    /// Takes as much room as a text may need at most, or a little more.
    fn take(&mut self, text: &str) -> Option<()> {
        let long = text.bytes().filter(|byte| matches!(byte, ..b' ' | b'"' | b'\\' | 0xEF)).count();
        self.spend(text.len() + 5 * long + 6)
    }

    fn spend(&mut self, bytes: usize) -> Option<()> {
        self.room = self.room.checked_sub(bytes)?;
        Some(())
    }

    /// A copy whose texts have no marks.
    fn encoded(&mut self, value: &Value, depth: usize) -> Option<Value> {
        Some(match value {
            Value::String(text) => {
                self.take(text)?;
                Value::String(encode(text).into_owned())
            }
            Value::Array(items) if depth < DEPTH_MAX => {
                self.spend(8)?;
                Value::Array(items.iter().map(|item| self.encoded(item, depth + 1)).collect::<Option<_>>()?)
            }
            Value::Object(members) if depth < DEPTH_MAX => Value::Object(self.encoded_members(members, depth)?),
            Value::Array(_) | Value::Object(_) => return None,
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                // The longest number has fewer.
                self.spend(32)?;
                value.clone()
            }
        })
    }

    fn encoded_members(&mut self, members: &Map<String, Value>, depth: usize) -> Option<Map<String, Value>> {
        self.spend(8)?;
        let mut copy = Map::with_capacity(members.len());
        for (name, member) in members {
            self.take(name)?;
            copy.insert(encode(name).into_owned(), self.encoded(member, depth + 1)?);
        }
        Some(copy)
    }
}

impl Output<Tokens> for Builder {
    fn literal(&mut self, literal: &Tokens) -> Option<()> {
        self.spend(literal.bytes)?;
        literal.list.iter().try_for_each(|token| self.token(token))
    }

    fn value(&mut self, text: &str) -> Option<()> {
        self.take(text)?;
        mark_as_is(text, self.text.as_mut()?);
        Some(())
    }

    fn json(&mut self, value: &Value) -> Option<()> {
        self.spend(6)?;
        let copy = self.encoded(value, self.open.len())?;
        self.place(copy)
    }

    fn body(&mut self, body: &Map<String, Value>) -> Option<()> {
        self.spend(6)?;
        let copy = self.encoded_members(body, self.open.len())?;
        self.place(Value::Object(copy))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use handlebars::Template;
    use serde_json::json;

    use super::*;
    use crate::render::quick::{self, Scope};
    use crate::render::taint::{mark, mark_json, parse};

    /// What `template` builds, and what is parsed of the text that handlebars would render.
    fn built(template: &str, context: &Value) -> (Option<Value>, Option<Value>) {
        let program = quick::read(&Template::compile(template).unwrap(), &BTreeMap::new()).unwrap();
        let build = |program: quick::Program<Tokens>| {
            let mut builder = Builder::new();
            program.run(Scope::new(context), &mut builder)?;
            builder.done()
        };
        let mut registry = handlebars::Handlebars::new();
        registry.register_escape_fn(|value| {
            let mut text = String::new();
            mark(value, &mut text);
            text
        });
        crate::render::helpers::register(&mut registry, crate::render::Format::Webhook);
        let text = registry.render_template(template, context).unwrap();
        (program.tokenised().and_then(build), parse(&text).ok())
    }

    #[test]
    fn a_document_is_what_a_parser_would_make_of_it() {
        let mut marked = String::new();
        mark_json(&json!("x"), &mut marked);
        let context = json!({"a": "x\"\\\n\u{FDD0}é", "n": 1.5, "b": true, "none": null, "empty": "", "list": ["p", "q"],
            "o": {"k\u{FDD3}": [1, {"\u{FDD1}": marked}], "e": {}, "l": []}});
        for template in [
            r#"{"a": "{{a}}", "b": "x{{a}}y{{n}}{{b}}{{none}}{{empty}}z", "c": [], "d": {}, "": "\u00e9\n\"\\\/\ud83d\ude00"}"#,
            r#"  [1, -0, 1e3, 1.50, true, false, null, "x" , {"y":[[]]}]  "#,
            r#"{"a": {{json o}}, "b": [{{json a}},{{json n}},{{json none}}], "c": {{json list}}}"#,
            r#"{{#if b}}{"a": "{{#if none}}x{{else}}y\t{{a}}{{/if}}"{{#if a}},"b"{{/if}}: 1 }{{else}}[]{{/if}}"#,
            r"[{{#each list}}{}{{/each}}]",
            r#"{"same": 1, "other": 2, "same": "{{a}}"}"#,
            r#""{{a}}""#,
            r"{{json n}}",
            r#"{"{{a}}": 1, "x{{n}}y": 2}"#,
            r#"{"a{{#if b}}b": "c{{else}}c{{/if}}"}"#,
        ] {
            let (built, parsed) = built(template, &context);
            // Two items without a comma are no list.
            assert_eq!(built.is_some(), !template.contains("each"), "{template}");
            assert_eq!(built, parsed, "{template}");
        }
        let listed = r#"{"l": [{{#each list}}{"x": "y"}{{#unless @last}},{{/unless}}{{/each}}]}"#;
        let (built, parsed) = built(listed, &context);
        assert_eq!(built, Some(json!({"l": [{"x": "y"}, {"x": "y"}]})));
        assert_eq!(built, parsed);
    }

    /// What is odd, or wrong, is a parser's to judge: some of it is JSON after all.
    #[test]
    fn whatever_does_not_fit_is_left_to_the_parser() {
        let context = json!({"a": "x", "n": 1, "t": true, "list": [1, 2], "deep": (0..110).fold(json!(1), |deep, _| json!([deep])),
            "long": "\"".repeat(OUTPUT_BYTES_MAX / 3)});
        #[rustfmt::skip]
        let templates = [
            "", " ", "{", "}", "{]", "[}", "[1,]", "[,1]", "{,}", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1,}"#, r"{1:2}",
            r#"{"a":1 "b":2}"#, r#"{"a" "b"}"#, "[1 2]", "1 2", "[1] [2]", "tru", "+1 ", "01 ", "{a}", "'a'", "[1}]",
            r"[{{json n}}{{json n}}]", r"[{{json n}}2]", "[1{{json n}}]", "[1{{#if t}}2{{/if}}]", r"[-{{json n}}]",
            "{{a}}", "[{{a}}]", r#""{{json a}}""#, r#"["\u00{{n}}{{n}}"]"#, r#"["\ud83d{{a}}\ude00"]"#, "[\"\n\"]",
            "[\"\t{{a}}\"]", r#"{"a": {{#if t}}"x{{else}}"y"{{/if}}{{#if t}}"{{/if}}}"#,
            r#"[{{#each list}}"{{/each}}]"#, r#"["x]"#, r#"["{{a}}]"#, "[{{json deep}}]", r#"["{{long}}"]"#,
            "[{{json long}}]", "\u{FEFF}[]", "[\u{A0}]", r#"{"x": 1}{{a}}"#,
        ];
        for template in templates {
            let (built, _) = built(template, &context);
            assert_eq!(built, None, "{template:.60}");
        }
        assert_eq!(built(r"[{{json n}}{{json n}}]", &context).1, Some(json!([11])));
    }
}
