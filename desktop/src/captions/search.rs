//! Looking for text: filters over pictures, and find and replace in captions.

use super::Entry;
use super::tags::tags;

/// The pictures that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Words that name or caption must have; `-word` must not be there, `"two words"` are one, `name:`, `caption:` and
    /// `tag:` say where to look, a tag being the whole of it.
    pub text: String,
    /// True for pictures without a caption only.
    pub uncaptioned: bool,
    /// True for pictures only whose caption is not in its file.
    pub unsaved: bool,
}

/// A word of a filter.
struct Term {
    unwanted: bool,
    place: Place,
    word: String,
}

enum Place {
    Anywhere,
    Name,
    Caption,
    Tag,
}

impl Filter {
    /// True if every picture is shown.
    pub fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && !self.uncaptioned && !self.unsaved
    }

    /// The numbers of the pictures that are shown.
    pub fn matching(&self, entries: &[Entry]) -> Vec<usize> {
        let terms = terms(&self.text);
        let is_shown = |entry: &Entry| {
            !(self.uncaptioned && !entry.caption.is_empty() || self.unsaved && entry.is_saved())
                && terms.iter().all(|term| term.holds(entry))
        };
        (0..entries.len()).filter(|&i| is_shown(&entries[i])).collect()
    }
}

impl Term {
    fn holds(&self, entry: &Entry) -> bool {
        let word = self.word.as_str();
        let within = |text: &str| text.to_lowercase().contains(word);
        let found = match self.place {
            Place::Anywhere => within(&entry.name) || within(&entry.caption),
            Place::Name => within(&entry.name),
            Place::Caption => within(&entry.caption),
            Place::Tag => tags(&entry.caption).any(|tag| tag.to_lowercase() == word),
        };
        found != self.unwanted
    }
}

/// Words in small letters, those in quotes together.
fn terms(text: &str) -> Vec<Term> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().expect("there is one from the start").extend(c.to_lowercase()),
        }
    }
    let term = |word: String| {
        let (unwanted, rest) = word.strip_prefix('-').map_or((false, word.as_str()), |rest| (true, rest));
        let places = [("name:", Place::Name), ("caption:", Place::Caption), ("tag:", Place::Tag)];
        let placed = places.into_iter().find_map(|(start, place)| Some((place, rest.strip_prefix(start)?)));
        let (place, word) = placed.unwrap_or((Place::Anywhere, rest));
        Term { unwanted, place, word: word.to_string() }
    };
    words.into_iter().map(term).filter(|term| !term.word.is_empty()).collect()
}

/// A text to be found, and what comes in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replace {
    /// The text to be found.
    pub find: String,
    /// The text in its place.
    pub with: String,
    /// Capital letters are others than small ones.
    pub case: bool,
    /// Letters may not go on before or behind it.
    pub words: bool,
}

impl Replace {
    /// The caption after all replacements, and their number.
    pub fn of(&self, caption: &str) -> (String, usize) {
        let (mut changed, mut count, mut rest) = (String::new(), 0, caption);
        let mut before = None;
        while let Some((start, end)) = self.find_in(rest, before) {
            changed.push_str(&rest[..start]);
            changed.push_str(&self.with);
            before = rest[..end].chars().next_back();
            rest = &rest[end..];
            count += 1;
        }
        (changed + rest, count)
    }

    /// The first place of the text in `caption`, before which there is the character `before`.
    fn find_in(&self, caption: &str, mut before: Option<char>) -> Option<(usize, usize)> {
        if self.find.is_empty() {
            return None;
        }
        for (start, c) in caption.char_indices() {
            if let Some(length) = self.length_at(&caption[start..]) {
                let behind = caption[start + length..].chars().next();
                let goes_on = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
                if !self.words || !(goes_on(before) || goes_on(behind)) {
                    return Some((start, start + length));
                }
            }
            before = Some(c);
        }
        None
    }

    /// The bytes that the text takes at the beginning of `caption`, if it is there.
    fn length_at(&self, caption: &str) -> Option<usize> {
        if self.case {
            return caption.starts_with(&self.find).then_some(self.find.len());
        }
        let mut rest = caption.chars();
        for wanted in self.find.chars() {
            let there = rest.next()?;
            if wanted != there && !wanted.to_lowercase().eq(there.to_lowercase()) {
                return None;
            }
        }
        Some(caption.len() - rest.as_str().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_look_where_they_are_told() {
        let entry = |name: &str, caption: &str, disk: Option<&str>| Entry {
            caption: caption.into(),
            disk: disk.map(Into::into),
            ..Entry::new(name.into(), name.into())
        };
        let entries = [
            entry("a.png", "A black cat, grass", Some("A black cat, grass")),
            entry("cat.png", "a dog", None),
            entry("c.png", "", None),
        ];
        let shown = |text: &str| Filter { text: text.into(), ..Filter::default() }.matching(&entries);
        assert_eq!(shown(""), [0, 1, 2]);
        assert_eq!(shown("CAT"), [0, 1]);
        assert_eq!(shown("cat -dog"), [0]);
        assert_eq!(shown("name:cat"), [1]);
        assert_eq!(shown("caption:cat"), [0]);
        assert_eq!(shown("\"black cat\""), [0]);
        assert_eq!(shown("tag:grass"), [0]);
        assert_eq!(shown("tag:cat"), [] as [usize; 0]);
        let only = |uncaptioned, unsaved| Filter { uncaptioned, unsaved, ..Filter::default() }.matching(&entries);
        assert_eq!(only(true, false), [2]);
        assert_eq!(only(false, true), [1]);
    }

    #[test]
    fn texts_are_found_and_replaced() {
        let replace =
            |find: &str, with: &str, case, words| Replace { find: find.into(), with: with.into(), case, words };
        assert_eq!(replace("cat", "dog", false, false).of("Cat, concat, CAT"), ("dog, condog, dog".into(), 3));
        assert_eq!(replace("cat", "dog", true, true).of("Cat, concat, cat"), ("Cat, concat, dog".into(), 1));
        assert_eq!(replace("é", "e", false, false).of("É é"), ("e e".into(), 2));
        assert_eq!(replace("aa", "a", true, false).of("aaaa"), ("aa".into(), 2));
        assert_eq!(replace("", "x", true, false).of("abc"), ("abc".into(), 0));
        assert_eq!(replace("a", "a b", false, true).of("a a"), ("a b a b".into(), 2));
    }
}
