//! The end of an answer at a text that a request names: the text itself is no part of it, and nothing is told that may
//! turn out to be its beginning.

/// An answer that is told piece by piece, without spaces around it.
#[derive(Debug)]
pub struct Cut {
    stops: Vec<String>,
    /// The text that may be the beginning of a stop, or the space at the end.
    held: String,
    begun: bool,
    ended: bool,
}

impl Cut {
    pub fn at(stops: &[String]) -> Cut {
        Cut { stops: stops.to_vec(), held: String::new(), begun: false, ended: false }
    }

    /// Takes a piece, and gives what can be told by now.
    pub fn push(&mut self, piece: &str) -> String {
        if self.ended {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.ended = true;
            self.held.truncate(at);
            return self.finish();
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let at = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        self.tell(self.held[..at].trim_end().len())
    }

    /// Tells whether something is held back.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Gives what was held back, after the last piece.
    pub fn finish(&mut self) -> String {
        self.tell(self.held.trim_end().len())
    }

    /// The first bytes of what is held.
    fn tell(&mut self, bytes: usize) -> String {
        let rest = self.held.split_off(bytes);
        let told = std::mem::replace(&mut self.held, rest);
        let told = if self.begun { told } else { told.trim_start().into() };
        self.begun |= !told.is_empty();
        told
    }

    /// A whole text, up to where it ends.
    pub fn whole(stops: &[String], text: &str) -> String {
        let end = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
        text[..end.unwrap_or(text.len())].trim().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_as_the_whole_is() {
        let text = " a red circle\n\nand a blue  squäre. \n";
        for stops in [vec![], vec!["\n\n"], vec!["circle", "red"], vec!["squäre."], vec!["x"], vec!["\nx", "a blue  s"]]
        {
            let stops: Vec<String> = stops.into_iter().map(String::from).collect();
            for size in 1..6 {
                let letters: Vec<char> = text.chars().collect();
                let mut cut = Cut::at(&stops);
                let mut told: String = letters.chunks(size).map(|piece| cut.push(&String::from_iter(piece))).collect();
                told += &cut.finish();
                assert_eq!(told, Cut::whole(&stops, text), "{stops:?} by {size}");
            }
        }
    }
}
