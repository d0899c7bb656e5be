//! Results that callers are given, and give back to be freed.

use std::ffi::{CString, c_char};

use instructblip::model::{NamedTensor, Values};
use serde_json::Value;

/// Numbers with their dimensions; to be freed with instructblip_floats_free.
#[repr(C)]
#[derive(Debug)]
pub struct Floats {
    /// The numbers, the last dimension's neighbours side by side; NULL where there are none.
    pub values: *mut f32,
    /// The count of the numbers: the product of the dimensions.
    pub count: usize,
    /// The dimensions; those that are not used are 1, and come first.
    pub shape: [usize; 4],
}

impl Floats {
    /// No numbers.
    pub const NONE: Floats = Floats { values: std::ptr::null_mut(), count: 0, shape: [0; 4] };

    /// Numbers of these dimensions, four at most.
    pub fn new(values: Vec<f32>, shape: &[usize]) -> Floats {
        let mut four = [1; 4];
        four[4 - shape.len()..].copy_from_slice(shape);
        let count = values.len();
        Floats { values: Box::into_raw(values.into_boxed_slice()).cast(), count, shape: four }
    }

    /// The numbers of a tensor.
    pub fn of(tensor: NamedTensor) -> Floats {
        match tensor.values {
            Values::F32(values) => Floats::new(values, &tensor.shape),
            Values::I32(_) => Floats::NONE,
        }
    }
}

/// JSON as text.
pub fn json(value: &Value) -> *mut c_char {
    CString::new(value.to_string()).expect("JSON writes NUL in another way").into_raw()
}

/// Frees a text that a call gave. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_text_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: it comes from `CString::into_raw` and was not freed, the caller promises.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Frees the numbers that a call gave, and sets `values` to NULL. NULL, and numbers that are freed, are allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_floats_free(floats: *mut Floats) {
    // SAFETY: it is NULL or a struct that this library filled, the caller promises.
    let Some(floats) = (unsafe { floats.as_mut() }) else { return };
    if !floats.values.is_null() {
        let values = std::ptr::slice_from_raw_parts_mut(floats.values, floats.count);
        // SAFETY: `Floats::new` made it of a box of as many numbers, and it was not freed before: `values` would be
        // NULL.
        drop(unsafe { Box::from_raw(values) });
    }
    *floats = Floats::NONE;
}
