//! Two other glob libraries agree with ours, on the syntax that all three share.
//!
//! Left out of the patterns because the others read it otherwise: `/`, characters of more than one byte (both take `?`
//! for a byte), a leading `!` (fast-glob negates), and `**` (a path wildcard to both).

use halo_relay::model::key::KeyGlob;
use proptest::prelude::*;
use proptest::sample::select;

fn pattern() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "a",
        "b",
        "-",
        "ab",
        "*",
        "?",
        "[a-b]",
        "[!a]",
        "[^b]",
        "[!a-b]",
        "[ab-]",
        "{a,b}",
        "{a,}",
        "{a*,-b}",
        "{[ab],?c}",
        "{a{b,c},b}",
        "{*,a}",
    ]);
    prop::collection::vec(piece, 1..7).prop_map(|pieces| {
        let mut pattern = pieces.concat();
        while pattern.contains("**") {
            pattern = pattern.replace("**", "*");
        }
        pattern
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn other_libraries_agree(pattern in pattern(), keys in prop::collection::vec("[abc-]{1,7}", 1..12)) {
        let ours = match KeyGlob::parse(&pattern) {
            Ok(glob) => glob,
            // Rarely, six braces make more alternatives than ours allows.
            Err(error) => {
                prop_assert!(error.message.contains("more than 256 alternatives"), "{} {}", pattern, error);
                return Ok(());
            }
        };
        let theirs = globset::GlobBuilder::new(&pattern).empty_alternates(true).build().unwrap().compile_matcher();
        for key in keys {
            prop_assert_eq!(ours.matches(&key), theirs.is_match(&key), "globset: {} {}", pattern, key);
            prop_assert_eq!(ours.matches(&key), fast_glob::glob_match(&pattern, &key), "fast-glob: {} {}", pattern, key);
        }
    }

    #[test]
    fn no_text_panics_the_parser(pattern in r"[ab*?!^{},\[\]\\é-]{0,24}") {
        match KeyGlob::parse(&pattern) {
            Ok(glob) => prop_assert_eq!(glob.as_str(), pattern),
            Err(error) => prop_assert!(pattern.get(error.at..error.at + error.len).is_some(), "{} {:?}", pattern, error),
        }
    }
}
