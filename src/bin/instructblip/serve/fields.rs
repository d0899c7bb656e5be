//! The fields of a request's JSON, each read as the kind it must be, so that a refusal names the one at fault.

use instructblip::processor::Task;
use serde_json::{Map, Value};

use super::failure::Failure;

/// Most values of a body: none that a request needs has as many, and each takes memory when it is read.
const MOST_VALUES: usize = 20_000;

/// Most bytes of a text, and texts of a list: far more than any context holds.
const MOST_TEXT: usize = 64 * 1024;
const MOST_TEXTS: usize = 256;

/// Deepest values inside others.
const DEEPEST: usize = 32;

/// The fields of an object that are not read yet.
#[derive(Debug)]
pub struct Fields {
    /// The place of the object, `messages[0].` or nothing.
    place: String,
    fields: Map<String, Value>,
}

/// Reads a body.
///
/// # Errors
/// [`Failure`] for what is no JSON object, or too large a one.
pub fn parse(body: &[u8]) -> Result<Fields, Failure> {
    // Some editors begin files with this mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    check_size(body)?;
    let refused = |problem: &str| Failure::new(axum::http::StatusCode::BAD_REQUEST, "invalid_json", problem);
    let problem = "the body is not JSON in UTF-8, or has a number that is too large";
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(Fields { place: String::new(), fields }),
        Ok(_) => Err(refused("the body is JSON but not an object")),
        Err(_) if body.is_empty() => Err(refused("the body is empty; send a JSON object")),
        Err(error) if error.is_eof() => Err(refused("the body is cut: its JSON does not end")),
        Err(error) => Err(refused(&format!("{problem} (line {}, column {})", error.line(), error.column()))),
    }
}

/// Refuses a body whose values would take far more memory than the body.
fn check_size(body: &[u8]) -> Result<(), Failure> {
    let (mut values, mut depth, mut deepest, mut quoted, mut escaped) = (0, 0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => (values, depth) = (values + 1, depth + 1),
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            b',' if !quoted => values += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    let too_large = |what: String| Failure::new(axum::http::StatusCode::BAD_REQUEST, "invalid_json", what);
    if deepest > DEEPEST {
        return Err(too_large(format!("the body has values {deepest} deep in others; the limit is {DEEPEST}")));
    }
    if values > MOST_VALUES {
        return Err(too_large(format!("the body has {values} values; the limit is {MOST_VALUES}")));
    }
    Ok(())
}

impl Fields {
    /// The fields of a value that stands at `place`.
    ///
    /// # Errors
    /// [`Failure`] for what is no object.
    pub fn of(value: Value, place: &str) -> Result<Fields, Failure> {
        match value {
            Value::Object(fields) => Ok(Fields { place: format!("{place}."), fields }),
            _ => Err(Failure::request(place, "must be an object")),
        }
    }

    /// The full name of a field.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.place)
    }

    /// Takes a field; `null` is as good as none.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field).filter(|value| !value.is_null())
    }

    /// Takes a text.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => self.bounded(field, text).map(Some),
            Some(_) => Err(self.refused(field, "must be a text")),
        }
    }

    /// Refuses a text that no model reads to its end, before it is made tokens of.
    fn bounded(&self, field: &str, text: String) -> Result<String, Failure> {
        match text.len() > MOST_TEXT {
            true => Err(self.refused(field, &format!("has {} bytes of text; the limit is {MOST_TEXT}", text.len()))),
            false => Ok(text),
        }
    }

    /// Takes a list.
    pub fn list(&mut self, field: &str) -> Result<Option<Vec<Value>>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => Err(self.refused(field, "must be a list")),
        }
    }

    /// Takes a list of texts; where `alone`, a text by itself is a list of one.
    pub fn texts(&mut self, field: &str, alone: bool) -> Result<Vec<String>, Failure> {
        let values = match self.take(field) {
            None => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(text @ Value::String(_)) if alone => vec![text],
            Some(_) if alone => return Err(self.refused(field, "must be a text or a list of texts")),
            Some(_) => return Err(self.refused(field, "must be a list of texts")),
        };
        if values.len() > MOST_TEXTS {
            return Err(self.refused(field, &format!("has {} texts; the limit is {MOST_TEXTS}", values.len())));
        }
        let text = |value| match value {
            Value::String(text) => self.bounded(field, text),
            _ => Err(self.refused(field, "must have texts only")),
        };
        values.into_iter().map(text).collect()
    }

    /// Takes `true` or `false`.
    pub fn flag(&mut self, field: &str) -> Result<Option<bool>, Failure> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.refused(field, "must be true or false")),
        }
    }

    /// Takes a whole number from `least` to `most`.
    pub fn whole(&mut self, field: &str, least: u64, most: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.take(field) else { return Ok(None) };
        // Some clients write whole numbers as 3.0.
        let whole = |x: f64| (x.fract() == 0.0 && (0.0..=9e15).contains(&x)).then_some(x as u64);
        match value.as_u64().or_else(|| value.as_f64().and_then(whole)).filter(|n| (least..=most).contains(n)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refused(field, &format!("must be a whole number from {least} to {most}"))),
        }
    }

    /// Takes a number from `least` to `most`.
    pub fn number(&mut self, field: &str, least: f64, most: f64) -> Result<Option<f64>, Failure> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match value.as_f64().filter(|x| (least..=most).contains(x)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refused(field, &format!("must be a number from {least} to {most}"))),
        }
    }

    /// Refuses a field.
    pub fn refused(&self, field: &str, problem: &str) -> Failure {
        Failure::request(&self.name(field), problem)
    }

    /// Drops fields that change nothing here, whatever they are.
    pub fn ignore(&mut self, fields: &[&str]) {
        fields.iter().for_each(|field| drop(self.fields.remove(*field)));
    }

    /// Refuses whatever was not taken.
    ///
    /// # Errors
    /// [`Failure`] naming the first field that is left.
    pub fn end(self) -> Result<(), Failure> {
        let left = self.fields.iter().find(|(_, value)| !value.is_null()).map(|(name, _)| name.clone());
        // What a client wrote goes back to it short, whatever it was.
        let short = |name: String| name.chars().take(64).collect::<String>();
        left.map(short).map_or(Ok(()), |name| {
            Err(Failure::unsupported(&self.name(&name), "is no field that this server knows; leave it out"))
        })
    }
}

/// Takes the task that words a prompt.
pub fn task(fields: &mut Fields) -> Result<Option<Task>, Failure> {
    let Some(name) = fields.text("task")? else { return Ok(None) };
    match Task::named(&name) {
        Some(task) => Ok(Some(task)),
        None => Err(fields.refused("task", &format!("must be one of {}", Task::ALL.map(|(name, _)| name).join(", ")))),
    }
}

/// The prompt that a task makes of a text, which came in the field `prompt`, and choices.
pub fn worded(task: Task, text: &str, choices: &[String], prompt: &str) -> Result<String, Failure> {
    let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
    task.prompt(text, &choices).map_err(|error| Failure::of(&error, prompt).about("task"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        parse(text.as_bytes()).unwrap_or_else(|failure| panic!("{text}: {}", failure.message()))
    }

    #[test]
    fn fields_are_of_their_kinds() {
        let mut all =
            fields(r#"{"a": "x", "b": 3, "c": 3.0, "d": 0.5, "e": true, "f": ["x", "y"], "g": "z", "h": null}"#);
        assert_eq!(all.text("a").expect("a text").as_deref(), Some("x"));
        assert_eq!(all.whole("b", 1, 5).expect("a number"), Some(3));
        assert_eq!(all.whole("c", 1, 5).expect("a number"), Some(3));
        assert_eq!(all.number("d", 0.0, 1.0).expect("a number"), Some(0.5));
        assert_eq!(all.flag("e").expect("a flag"), Some(true));
        assert_eq!(all.texts("f", false).expect("texts"), ["x", "y"]);
        assert_eq!(all.texts("g", true).expect("texts"), ["z"]);
        assert!(all.end().is_ok(), "null is as good as none");
    }

    #[test]
    fn refusals_name_the_field() {
        let refused = |text: &str, read: &dyn Fn(&mut Fields) -> Option<Failure>| {
            read(&mut fields(text)).map(|failure| failure.message().to_string())
        };
        let text = refused(r#"{"a": 1}"#, &|f| f.text("a").err());
        assert_eq!(text.as_deref(), Some("a: must be a text"));
        for bad in ["-1", "1e400", "2.5", "6", "\"3\"", "99999999999999999999"] {
            let json = format!(r#"{{"n": {bad}}}"#);
            let failure = parse(json.as_bytes()).and_then(|mut fields| fields.whole("n", 0, 5)).expect_err(bad);
            assert_eq!(failure.status, 400, "{bad}");
        }
        let left = fields(r#"{"spare": 1}"#).end().expect_err("a field that there is not");
        assert_eq!(left.body()["error"]["param"], "spare");
    }

    #[test]
    fn bodies_that_would_fill_the_memory_are_refused() {
        let many = format!("{{\"a\": [{}0]}}", "0,".repeat(MOST_VALUES + 1));
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(DEEPEST + 1), "]".repeat(DEEPEST + 1));
        let cut = &many[..many.len() - 1];
        for bad in
            [many.as_str(), &deep, "", "[]", "3", "{\"a\": \"\\ud800\"}", "{\"a\": 1e999}", &cut[..50], "{\"a\":"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        assert!(parse(b"{\"a\": \"\xff\"}").is_err());
        let quoted = format!("{{\"a\": \"{}\\\"[\"}}", "[,".repeat(MOST_VALUES));
        assert!(parse(quoted.as_bytes()).is_ok(), "brackets of a text are no values");
    }
}
