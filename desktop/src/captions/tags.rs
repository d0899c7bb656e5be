//! Captions as lists of tags, which commas separate.

use std::collections::{BTreeMap, HashMap};

/// The tags of a caption, in its order.
pub fn tags(caption: &str) -> impl Iterator<Item = &str> {
    caption.split(',').map(str::trim).filter(|tag| !tag.is_empty())
}

fn joined<'a>(tags: impl IntoIterator<Item = &'a str>) -> String {
    tags.into_iter().collect::<Vec<_>>().join(", ")
}

/// Numbers of captions that have each tag, kept up to date as captions change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(HashMap<String, usize>);

impl Counts {
    /// Counts another caption.
    pub fn add(&mut self, caption: &str) {
        for tag in tags(caption) {
            match self.0.get_mut(tag) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(tag.into(), 1)),
            }
        }
    }

    /// Counts a caption no more.
    pub fn remove(&mut self, caption: &str) {
        for tag in tags(caption) {
            if let Some(count) = self.0.get_mut(tag) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(tag);
                }
            }
        }
    }

    /// The number of times that a tag is there.
    pub fn of(&self, tag: &str) -> usize {
        self.0.get(tag).copied().unwrap_or(0)
    }

    /// Tags with their numbers, the most frequent first, or by the alphabet.
    pub fn sorted(&self, by_count: bool) -> Vec<(String, usize)> {
        let mut all: Vec<(String, usize)> = self.0.iter().map(|(tag, &count)| (tag.clone(), count)).collect();
        match by_count {
            true => all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0))),
            false => all.sort(),
        }
        all
    }

    /// The most frequent tags that begin with `start`, but for itself.
    pub fn beginning_with(&self, start: &str, most: usize) -> Vec<&str> {
        let start = start.to_lowercase();
        let mut found: Vec<(&str, usize)> = match start.is_empty() {
            true => Vec::new(),
            false => {
                let all = self.0.iter().map(|(tag, &count)| (tag.as_str(), count));
                all.filter(|(tag, _)| tag.to_lowercase().starts_with(&start) && tag.len() > start.len()).collect()
            }
        };
        found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        found.truncate(most);
        found.into_iter().map(|(tag, _)| tag).collect()
    }
}

/// A change to the tags of captions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagChange {
    /// Puts a tag behind the others, where it is not there.
    Add(String),
    /// Puts a tag before the others, where it is not there.
    AddFirst(String),
    /// Takes a tag away.
    Remove(String),
    /// Gives a tag another name; an empty one takes it away.
    Rename(String, String),
    /// Keeps the first of equal tags.
    Once,
    /// Puts tags in the order of the alphabet.
    Sort,
}

impl TagChange {
    /// The caption after the change.
    pub fn of(&self, caption: &str) -> String {
        let mut all: Vec<&str> = tags(caption).collect();
        match self {
            TagChange::Add(tag) if !all.contains(&tag.as_str()) => all.push(tag),
            TagChange::AddFirst(tag) if !all.contains(&tag.as_str()) => all.insert(0, tag),
            TagChange::Add(_) | TagChange::AddFirst(_) => return caption.into(),
            TagChange::Remove(tag) => all.retain(|other| other != tag),
            TagChange::Rename(old, _) if !all.contains(&old.as_str()) => return caption.into(),
            TagChange::Rename(old, new) => {
                all.iter_mut().filter(|tag| *tag == old).for_each(|tag| *tag = new.trim());
                all.retain(|tag| !tag.is_empty());
                all = once(all);
            }
            TagChange::Once => all = once(all),
            TagChange::Sort => all.sort_unstable(),
        }
        let changed = joined(all.iter().copied());
        // Spaces about commas are no reason to change a caption.
        if joined(tags(caption)) == changed { caption.into() } else { changed }
    }

    /// The change in words.
    pub fn name(&self) -> String {
        match self {
            TagChange::Add(tag) | TagChange::AddFirst(tag) => format!("add the tag {tag}"),
            TagChange::Remove(tag) => format!("remove the tag {tag}"),
            TagChange::Rename(old, new) => format!("rename the tag {old} to {new}"),
            TagChange::Once => "remove double tags".into(),
            TagChange::Sort => "sort tags".into(),
        }
    }
}

fn once(tags: Vec<&str>) -> Vec<&str> {
    let mut seen = BTreeMap::new();
    tags.into_iter().filter(|tag| seen.insert(*tag, ()).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_change_and_nothing_else_does() {
        let of = |change: TagChange, caption: &str| change.of(caption);
        assert_eq!(of(TagChange::Add("dog".into()), "cat,  bird"), "cat, bird, dog");
        assert_eq!(of(TagChange::AddFirst("dog".into()), ""), "dog");
        assert_eq!(of(TagChange::Add("cat".into()), "cat,  bird"), "cat,  bird");
        assert_eq!(of(TagChange::Remove("cat".into()), "cat, black cat, cat"), "black cat");
        assert_eq!(of(TagChange::Remove("dog".into()), "cat,bird"), "cat,bird");
        assert_eq!(of(TagChange::Rename("cat".into(), "dog".into()), "dog, cat, bird"), "dog, bird");
        assert_eq!(of(TagChange::Rename("cat".into(), String::new()), "cat"), "");
        assert_eq!(of(TagChange::Once, "a, b, a"), "a, b");
        assert_eq!(of(TagChange::Sort, "b,a"), "a, b");
    }

    #[test]
    fn counts_follow_captions() {
        let mut counts = Counts::default();
        ["cat, dog", "cat", "Cathedral, dog"].into_iter().for_each(|caption| counts.add(caption));
        counts.remove("cat");
        assert_eq!((counts.of("cat"), counts.of("dog"), counts.of("bird")), (1, 2, 0));
        let sorted = counts.sorted(true);
        assert_eq!(sorted[0], ("dog".to_string(), 2));
        assert_eq!(counts.beginning_with("Cat", 8), ["Cathedral"]);
        counts.remove("cat, dog");
        counts.remove("Cathedral, dog");
        assert_eq!(counts, Counts::default());
    }
}
