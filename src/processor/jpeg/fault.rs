//! Faults of a file.

/// The reason that a file is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::processor) enum Fault {
    /// The data stop before the picture does.
    Truncated,
    /// The file breaks the format's rules where libjpeg-turbo does not go on.
    Damaged,
    /// A kind of JPEG that Pillow does not read either.
    Kind,
}
