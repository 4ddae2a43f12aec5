//! How values are read, each with its place: scalars, lists of them, tables of names, secrets.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::fault::span;
use super::{At, Duplicate, Entries, Field, Many, Reference, Sp, Span, Strays, Written};

/// Reads one field of a table into its place; what is written twice, or has nothing behind it, goes to `strays`.
pub(super) fn read_field<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    key: Sp<String>,
    map: &mut A,
    field: &mut Option<Field<T>>,
    strays: &mut Strays,
) -> Result<(), A::Error> {
    if let Some(first) = field {
        let scalars = map.next_value::<Tree>()?.scalars();
        strays.duplicates.push(Duplicate { key, first: first.key, scalars });
        return Ok(());
    }
    let Sp { value, at } = map.next_value::<Sp<Option<T>>>()?;
    match value {
        Some(value) => *field = Some(Field { value, at, key: key.at }),
        None => strays.empty.push(key),
    }
    Ok(())
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Sp<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { value: spanned.value, at: span(spanned.referenced) })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry::<Sp<String>, Option<T>>()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_any(EntriesVisitor(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Many {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ManyVisitor;

        impl<'de> Visitor<'de> for ManyVisitor {
            type Value = Many;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Many, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element::<Sp<String>>()? {
                    items.push(item);
                }
                Ok(Many::List(items))
            }

            fn visit_str<E>(self, text: &str) -> Result<Many, E> {
                Ok(Many::One(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Many, E> {
                Ok(Many::Bare(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Many, E> {
                Ok(Many::Bare(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Many, E> {
                Ok(Many::Bare(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Many, E> {
                Ok(Many::Bare(value.to_string()))
            }
        }

        deserializer.deserialize_any(ManyVisitor)
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WrittenVisitor;

        impl<'de> Visitor<'de> for WrittenVisitor {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret, as { env: NAME }, { file: PATH } or { credential: NAME },")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Written, A::Error> {
                Ok(Written::Reference(Box::new(Reference::read(map)?)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Literal(text.to_owned()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Written, E> {
                Ok(Written::Bare)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Written, E> {
                Ok(Written::Bare)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Written, E> {
                Ok(Written::Bare)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Written, E> {
                Ok(Written::Bare)
            }
        }

        deserializer.deserialize_any(WrittenVisitor)
    }
}

/// Any value, and its place.
pub(super) struct Tree {
    pub(super) node: Node,
    pub(super) at: At,
}

pub(super) enum Node {
    Nothing,
    /// As YAML understood it: `0123` has become `123`.
    Scalar(Scalar, String),
    List(Vec<Tree>),
    Table(Vec<(Sp<String>, Tree)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Text,
    Number,
    Flag,
}

impl Tree {
    /// The places of all scalars in it.
    pub(super) fn scalars(&self) -> Vec<Span> {
        match &self.node {
            Node::Nothing => Vec::new(),
            Node::Scalar(..) => self.at.into_iter().collect(),
            Node::List(items) => items.iter().flat_map(Self::scalars).collect(),
            Node::Table(fields) => fields.iter().flat_map(|(_, value)| value.scalars()).collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Sp { value: node, at } = Sp::<Node>::deserialize(deserializer)?;
        if matches!(node, Node::Scalar(..)) && at.is_none() {
            return Err(D::Error::custom("this value has no place in the text"));
        }
        Ok(Self { node, at })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Node::Table(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Scalar(Scalar::Text, text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(Scalar::Flag, value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(Scalar::Number, value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(Scalar::Number, value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Scalar(Scalar::Number, value.to_string()))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}
