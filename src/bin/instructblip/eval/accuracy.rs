//! The rule for which answers count as right.

/// A number of right answers among a number of questions.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Number of questions.
    pub count: usize,
    /// Number of questions whose answer is one of the given ones.
    pub exact: usize,
    /// The sum of VQA's accuracy over them.
    pub vqa: f64,
}

impl Tally {
    /// Counts one more answer.
    pub fn add(&mut self, prediction: &str, answers: &[String]) {
        let said = normalised(prediction);
        let agreeing = answers.iter().filter(|answer| !said.is_empty() && normalised(answer) == said).count();
        self.count += 1;
        self.exact += usize::from(agreeing > 0);
        self.vqa += vqa_accuracy(agreeing, answers.len());
    }
}

/// VQA's accuracy: a prediction is right as far as three other people say the same, averaged over leaving each person
/// out. Questions with fewer than VQA's ten answers have no crowd to agree with: one answer that agrees is enough.
fn vqa_accuracy(agreeing: usize, answers: usize) -> f64 {
    if answers < 10 {
        return if agreeing > 0 { 1.0 } else { 0.0 };
    }
    let right = |others: usize| (others as f64 / 3.0).min(1.0);
    let (yes, no) = (agreeing as f64, (answers - agreeing) as f64);
    (yes * right(agreeing.saturating_sub(1)) + no * right(agreeing)) / answers as f64
}

/// Text as VQA's evaluation compares it, but for its table of contractions: small letters, number words as digits, no
/// articles (where there is more), no punctuation, no commas inside numbers.
fn normalised(text: &str) -> String {
    const PUNCTUATION: &str = ";/[]\"{}()=+\\_-><@`,?!";
    const NUMBERS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let letters: Vec<char> = text.to_lowercase().chars().collect();
    let is_digit = |i: usize| letters.get(i).is_some_and(char::is_ascii_digit);
    let plain = letters.iter().enumerate().map(|(i, &c)| match c {
        ',' if i > 0 && is_digit(i - 1) && is_digit(i + 1) => String::new(),
        '.' if !is_digit(i + 1) => String::new(),
        c if PUNCTUATION.contains(c) => " ".into(),
        c => c.into(),
    });
    let plain: String = plain.collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    let mut kept: Vec<&str> = words.iter().copied().filter(|word| !["a", "an", "the"].contains(word)).collect();
    if kept.is_empty() {
        kept = words;
    }
    let digits = kept.into_iter().map(|word| match NUMBERS.iter().position(|&number| number == word) {
        _ if word == "none" => "0".into(),
        Some(number) => number.to_string(),
        None => word.to_string(),
    });
    digits.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_vqa_does() {
        for (text, want) in [
            ("The red circle.", "red circle"),
            ("Two", "2"),
            ("none", "0"),
            ("1,000", "1000"),
            ("1.5", "1.5"),
            ("U.S.", "us"),
            ("red/green, blue", "red green blue"),
            ("A", "a"),
            (" ? ", ""),
        ] {
            assert_eq!(normalised(text), want, "{text:?}");
        }
        let mut tally = Tally::default();
        tally.add("", &["a".into(), "".into()]);
        assert_eq!((tally.count, tally.exact), (1, 0), "an empty answer is never right");
    }

    #[test]
    fn accuracy_leaves_each_person_out() {
        // Of ten people: (agreeing, (yes * min((yes - 1) / 3, 1) + no * min(yes / 3, 1)) / 10).
        for (agreeing, want) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            assert!((vqa_accuracy(agreeing, 10) - want).abs() < 1e-12, "{agreeing}");
        }
        assert_eq!((vqa_accuracy(0, 3), vqa_accuracy(1, 3)), (0.0, 1.0));
    }
}
