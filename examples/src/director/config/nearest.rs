//! The known name that a misspelt one most likely stands for.

/// The nearest of `known` to `name` by edit distance with transpositions; `None` when all are too far to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&fold(name), &fold(candidate)), candidate))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, candidate)| distance <= 1 + candidate.len().max(name.len()) / 3)
        .map(|(_, candidate)| candidate)
}

/// Case and the kind of dash are no difference of meaning.
fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn names_near_enough_are_found() {
        let known = ["algorithm", "retries", "redispatch", "maxconn"];
        for (name, expected) in [
            ("algoritm", Some("algorithm")),
            ("retires", Some("retries")),
            ("Max_Conn", Some("maxconn")),
            ("redispach", Some("redispatch")),
            ("zone", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }
}
