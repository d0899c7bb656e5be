//! Reading what callers point to.

use std::ffi::{CStr, c_char};

use serde_json::error::Category;
use serde_json::{Map, Value};

use crate::status::Failure;

/// The value that a pointer points to.
///
/// # Safety
/// It is NULL, or points to a `T` that nobody changes meanwhile.
pub unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::argument(format!("{name} is NULL")))
}

/// The elements of an array.
///
/// # Safety
/// The pointer is NULL, or points to `count` elements that nobody changes meanwhile.
pub unsafe fn array<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::argument(format!("{name} is NULL, but it is to have {count} elements")));
    }
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::argument(format!("{name} cannot have {count} elements")));
    }
    // SAFETY: the caller's promise; the size was checked.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A text, or `None` for NULL.
///
/// # Safety
/// The pointer is NULL, or points to bytes up to a NUL that nobody changes meanwhile.
pub unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(pointer) };
    let wrong =
        |e: std::str::Utf8Error| Failure::argument(format!("{name} is no UTF-8 from byte {} on", e.valid_up_to()));
    bytes.to_str().map(Some).map_err(wrong)
}

/// A JSON object, empty for NULL.
///
/// # Safety
/// As [`text`].
pub unsafe fn object(pointer: *const c_char, name: &str) -> Result<Map<String, Value>, Failure> {
    // SAFETY: the caller's promise.
    let Some(text) = (unsafe { text(pointer, name) })? else { return Ok(Map::new()) };
    serde_json::from_str(text).map_err(|e| {
        let (place, said) = (format!("line {}, column {}", e.line(), e.column()), e.to_string());
        let problem = match e.classify() {
            Category::Data => "is JSON, but no object".into(),
            _ if said.starts_with("number out of range") => format!("has too large a number at {place}"),
            _ if said.starts_with("recursion limit exceeded") => format!("is nested too deeply at {place}"),
            _ => format!("is not JSON at {place}"),
        };
        Failure::request(format!("{name} {problem}: give an object such as {{\"name\": 1}}, or NULL"))
    })
}

/// The place for a result, which is NULL until there is one.
///
/// # Safety
/// The pointer is NULL, or points to a place that may be written to.
pub unsafe fn place<'a, T>(pointer: *mut *mut T, name: &str) -> Result<&'a mut *mut T, Failure> {
    // SAFETY: the caller's promise.
    let place = unsafe { pointer.as_mut() }.ok_or_else(|| Failure::argument(format!("{name} is NULL")))?;
    *place = std::ptr::null_mut();
    Ok(place)
}
