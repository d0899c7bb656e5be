//! Objects of options that people write: what is wrong with one is said of the field, in words that need no knowledge of
//! Rust.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The kind of a number without a sign, of 32 bits.
pub const WHOLE: &str = "a whole number from 0 to 4294967295";

/// The kind of a number without a sign, of 64 bits.
pub const LARGE: &str = "a whole number from 0 to 18446744073709551615";

/// The kind of a truth.
pub const FLAG: &str = "true or false";

/// The names that an object may have, each with the kind of its value: what it must be, in words.
pub type Kinds = [(&'static str, &'static str)];

/// The value of an object, which `what` names in errors. A `null` is as if it were left out; `T` has a default for all
/// that is.
///
/// # Errors
/// [`Error::Request`] that names a field that there is not, or whose value is none of its kind.
pub fn read<T: DeserializeOwned>(what: &str, mut object: Map<String, Value>, kinds: &Kinds) -> Result<T> {
    let kind = |name: &str| kinds.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
    if let Some(name) = object.keys().find(|name| kind(name).is_none()) {
        let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
        return Err(Error::request(format!("{what}: {} is unknown; there are {}", short(name), names.join(", "))));
    }
    object.retain(|_, value| !value.is_null());
    let parsed = |object: &Map<String, Value>| serde_json::from_value::<T>(Value::Object(object.clone())).ok();
    if let Some(value) = parsed(&object) {
        return Ok(value);
    }
    // One after another, as the errors of a whole object do not say which value they are about.
    let is_wrong = |(name, value): &(&String, &Value)| {
        parsed(&Map::from_iter([(name.to_string(), Value::clone(value))])).is_none()
    };
    let (name, value) = object.iter().find(is_wrong).expect("fields are read one by one");
    let (kind, value) = (kind(name).expect("known, as was seen"), short(&value.to_string()));
    Err(Error::request(format!("{what}: {name}: must be {kind}; it is {value}")))
}

/// The beginning of a text that may be of any length.
fn short(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Options {
        count: u32,
        names: Vec<String>,
    }

    #[test]
    fn errors_name_the_field_and_its_kind() {
        let kinds = [("count", WHOLE), ("names", "a list of texts")];
        let read = |text: &str| {
            let object = serde_json::from_str(text).expect("an object");
            super::read::<Options>("options", object, &kinds).map_err(|error| error.to_string())
        };
        assert_eq!(read(r#"{"count": 3, "names": null}"#), Ok(Options { count: 3, names: Vec::new() }));
        let long = format!(r#"{{"count": 3, "names": "{}"}}"#, "ä".repeat(99));
        for (text, told) in [
            (r#"{"names": [], "count": -1}"#, "options: count: must be a whole number from 0 to 4294967295; it is -1"),
            (
                r#"{"count": 4294967296}"#,
                "options: count: must be a whole number from 0 to 4294967295; it is 4294967296",
            ),
            (r#"{"names": ["a", 7]}"#, r#"options: names: must be a list of texts; it is ["a",7]"#),
            (r#"{"kount": null}"#, "options: kount is unknown; there are count, names"),
            (&long, &format!("options: names: must be a list of texts; it is \"{}…", "ä".repeat(39))),
        ] {
            assert_eq!(read(text), Err(told.into()), "{text}");
        }
    }
}
