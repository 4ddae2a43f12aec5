//! What somebody may have meant: the known words nearest to one that is not known.

/// The candidate one slip or a few away from `word`: at most one for each three letters.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = &word[..word.len().min(floor(word, LENGTH_MAX))];
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LENGTH_MAX)
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Up to `count` candidates that share most letter pairs with `glob`, its wildcards aside; for long words with parts.
pub(super) fn alike<'a>(glob: &str, candidates: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    /// Shared pairs, of all pairs; below this the words have little in common.
    const PERCENT_MIN: usize = 45;

    let wanted = pairs(glob);
    let mut rated: Vec<_> = candidates
        .into_iter()
        .map(|candidate| {
            let mut rest = pairs(candidate);
            let all = wanted.len() + rest.len();
            let shared = wanted.iter().filter(|pair| take(&mut rest, **pair)).count();
            (200 * shared / all.max(1), candidate)
        })
        .filter(|(percent, _)| *percent >= PERCENT_MIN)
        .collect();
    rated.sort_by_key(|(percent, _)| std::cmp::Reverse(*percent));
    rated.into_iter().take(count).map(|(_, candidate)| candidate).collect()
}

/// Words longer than this are nobody's misspelling; bounds the work.
const LENGTH_MAX: usize = 64;

fn floor(word: &str, mut at: usize) -> usize {
    at = at.min(word.len());
    while !word.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Letters to insert, delete, replace or swap with a neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

fn pairs(word: &str) -> Vec<(char, char)> {
    let letters: Vec<char> = word.chars().take(LENGTH_MAX).collect();
    let is_literal = |letter: &char| letter.is_alphanumeric() || *letter == '-';
    letters.windows(2).filter(|pair| pair.iter().all(is_literal)).map(|pair| (pair[0], pair[1])).collect()
}

fn take(pairs: &mut Vec<(char, char)>, wanted: (char, char)) -> bool {
    pairs.iter().position(|pair| *pair == wanted).map(|at| pairs.swap_remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips() {
        let known = ["sources", "destinations", "severity", "send", "stop", "sec-slack", "it-teams"];
        let cases = [
            ("severty", Some("severity")),
            ("sned", Some("send")),
            ("Stop", Some("stop")),
            ("sec_slack", Some("sec-slack")),
            ("destination", Some("destinations")),
            ("teams", None),
            ("x", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"ü".repeat(5000), known), None);
    }

    #[test]
    fn parts() {
        let known = ["website-cert-expired", "website-cert-expiring", "website-whois-expired", "issue-add"];
        assert_eq!(alike("website-certs-*", known, 2), ["website-cert-expired", "website-cert-expiring"]);
        assert_eq!(alike("issues-added", known, 2), ["issue-add"]);
        assert_eq!(alike("*", known, 2), Vec::<&str>::new());
        assert_eq!(alike("zzz", known, 2), Vec::<&str>::new());
    }
}
