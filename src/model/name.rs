//! Names that users give in rules.yaml. Newtypes, so that a rule cannot be taken for a destination.
//!
//! A name of up to 23 bytes is held in place, as most are: routing copies one for each delivery, and among many rules each
//! look into memory counts.

use std::fmt;

use smol_str::SmolStr;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(SmolStr);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A rule, as in `- name: certificates`.
    RuleName
}
name! {
    /// A destination, as in `destinations: { sec-slack: … }`.
    DestinationName
}
name! {
    /// A limit that destinations share, as in `limits: { slack-workspace: 100/10m }`. Names have no `/` and rates do, so
    /// neither can be taken for the other.
    LimitName
}
name! {
    /// A source, as in `sources: { halo: … }`.
    SourceName
}

impl RuleName {
    /// Stands for the `unrouted:` section, in deliveries that no rule asked for. Refused as a rule's own name.
    pub const UNROUTED: &'static str = "unrouted";
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn names_of_any_length_are_found_by_their_text() {
        let texts: Vec<_> = (1..=64).map(|length| "n".repeat(length)).collect();
        let names: HashMap<RuleName, usize> = texts.iter().map(|text| (text.as_str().into(), text.len())).collect();
        for text in &texts {
            assert_eq!(names.get(text.as_str()), Some(&text.len()));
            assert_eq!(RuleName::from(text.as_str()).to_string(), *text);
        }
    }
}
