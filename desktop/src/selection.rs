//! The pictures that are chosen, and the one that is looked at.

use std::collections::BTreeSet;

/// Numbers of chosen pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    chosen: BTreeSet<usize>,
    focus: Option<usize>,
    /// The end of a range that stays where it is.
    anchor: Option<usize>,
}

impl Selection {
    /// The picture that is looked at.
    pub fn focus(&self) -> Option<usize> {
        self.focus
    }

    /// True if a picture is chosen.
    pub fn has(&self, index: usize) -> bool {
        self.chosen.contains(&index)
    }

    /// The chosen pictures in their order.
    pub fn chosen(&self) -> impl ExactSizeIterator<Item = usize> {
        self.chosen.iter().copied()
    }

    /// Chooses one alone.
    pub fn choose(&mut self, index: usize) {
        *self = Selection { chosen: BTreeSet::from([index]), focus: Some(index), anchor: Some(index) };
    }

    /// Chooses one besides the others, or not any more.
    pub fn toggle(&mut self, index: usize) {
        if !self.chosen.remove(&index) {
            self.chosen.insert(index);
        }
        (self.focus, self.anchor) = (Some(index), Some(index));
    }

    /// Chooses everything from the last one chosen to this one, as they are shown.
    pub fn extend(&mut self, index: usize, shown: &[usize]) {
        let anchor = self.anchor.unwrap_or(index);
        let place = |index| shown.iter().position(|&other| other == index);
        let (Some(from), Some(to)) = (place(anchor), place(index)) else { return self.choose(index) };
        self.chosen = shown[from.min(to)..=from.max(to)].iter().copied().collect();
        (self.focus, self.anchor) = (Some(index), Some(anchor));
    }

    /// Chooses all that are shown.
    pub fn choose_all(&mut self, shown: &[usize]) {
        self.chosen = shown.iter().copied().collect();
        self.focus = self.focus.filter(|focus| self.chosen.contains(focus)).or(shown.first().copied());
    }

    /// Goes `by` pictures on among those shown.
    pub fn go(&mut self, by: isize, extends: bool, shown: &[usize]) {
        let place = self.focus.and_then(|focus| shown.iter().position(|&other| other == focus));
        let place = place.map_or(0, |place| place.saturating_add_signed(by).min(shown.len().saturating_sub(1)));
        match shown.get(place) {
            Some(&index) if extends => self.extend(index, shown),
            Some(&index) => self.choose(index),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_chosen_as_in_any_list() {
        let shown = [1, 4, 5, 8];
        let mut selection = Selection::default();
        let chosen = |selection: &Selection| selection.chosen().collect::<Vec<_>>();
        selection.go(1, false, &shown);
        assert_eq!((selection.focus(), chosen(&selection)), (Some(1), vec![1]));
        selection.extend(5, &shown);
        assert_eq!(chosen(&selection), [1, 4, 5]);
        selection.extend(4, &shown);
        assert_eq!(chosen(&selection), [1, 4]);
        selection.toggle(8);
        assert_eq!(chosen(&selection), [1, 4, 8]);
        selection.toggle(4);
        assert!(!selection.has(4) && selection.has(8));
        selection.go(9, false, &shown);
        assert_eq!(chosen(&selection), [8]);
        selection.go(-2, true, &shown);
        assert_eq!(chosen(&selection), [4, 5, 8]);
        selection.choose_all(&shown);
        assert_eq!((chosen(&selection).len(), selection.focus()), (4, Some(4)));
        selection.go(1, false, &[]);
        assert_eq!(chosen(&selection).len(), 4);
    }
}
