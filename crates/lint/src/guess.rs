//! Which word was meant.

/// How many letters have to be put in, left out, changed, or exchanged with their neighbour to make one word of another, in whatever case.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.to_lowercase().chars().collect();
    let other: Vec<char> = other.to_lowercase().chars().collect();
    // Three rows of the table: two above, one above, this one.
    let mut above: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut this = vec![row.saturating_add(1)];
        for (column, wanted) in other.iter().enumerate() {
            let at = |row: &[usize], back: usize| {
                column
                    .saturating_add(1)
                    .checked_sub(back)
                    .and_then(|index| row.get(index))
                    .copied()
                    .unwrap_or(usize::MAX)
            };
            let changed = at(&last, 1).saturating_add(usize::from(letter != wanted));
            let mut best = changed.min(at(&last, 0).saturating_add(1)).min(at(&this, 1).saturating_add(1));
            let before =
                |letters: &[char], index: usize| index.checked_sub(1).and_then(|index| letters.get(index)).copied();
            if row > 0 && column > 0 && before(&one, row) == Some(*wanted) && before(&other, column) == Some(*letter) {
                best = best.min(at(&above, 2).saturating_add(1));
            }
            this.push(best);
        }
        above = std::mem::replace(&mut last, this);
    }
    last.last().copied().unwrap_or_default()
}

/// How far a word may be from what was meant: one slip in a short one, more in longer ones.
pub(crate) fn reach(word: &str) -> usize {
    match word.chars().count() {
        0..=1 => 0,
        2..=5 => 1,
        6..=11 => 2,
        _ => 3,
    }
}

/// The nearest of `words` within reach, and its distance; the first of equals.
pub(crate) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, usize)> {
    let near = words.into_iter().map(|known| (known, distance(word, known)));
    near.filter(|(_, distance)| *distance <= reach(word)).min_by_key(|(_, distance)| *distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        for (one, other, expected) in [
            ("capabilites", "capabilities", 1),
            ("brigde", "bridge", 1),
            ("isgateway", "isGateway", 0),
            ("adress", "address", 1),
            ("", "abc", 3),
            ("mtu", "mac", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn short_words_must_be_nearer() {
        assert_eq!(nearest("mut", ["mac", "mtu"]), Some(("mtu", 1)));
        assert_eq!(nearest("mode", ["mtu", "mac", "master"]), None);
        assert_eq!(nearest("ip", ["ips"]), Some(("ips", 1)));
    }
}
