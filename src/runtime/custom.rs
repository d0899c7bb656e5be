//! Custom kernels: a user's own WGSL in the place of a kernel of ours.

use naga::front::wgsl;

use super::kernels::{self, Interface, Kernel, Parsed};
use crate::error::{Error, Result};

/// A custom kernel, and the name of the one in whose place it runs.
#[derive(Debug, PartialEq, Eq)]
pub struct CustomKernel {
    /// The name of the kernel that is not run.
    pub name: &'static str,
    /// The kernel that is run in its place.
    pub kernel: Kernel,
    /// Rows and columns of y that one workgroup makes, where the text says so: `const TILE_ROWS`, `const TILE_COLUMNS`.
    pub tile: Option<(u32, u32)>,
}

impl CustomKernel {
    /// Says whether it does all that ours does in whose place it runs, as one that keeps the names of ours.
    pub(super) fn does_the_same(&self) -> bool {
        let names = |kernel: &Kernel| (kernel.name, kernel.form, kernel.file);
        kernels::all().any(|ours| names(ours) == names(&self.kernel))
    }

    /// Puts `text` in the place of the kernel `name` in all its weight formats. `file` is what error messages call it.
    ///
    /// The pieces of `shaders/shared` that stand in front of our kernel stand in front of `text`, too, but for one with
    /// the entry point, unless it declares the bindings that they have, or compiles without them. It must have the same bindings, `Params` and
    /// entry point as the kernel it replaces, and gets the same constants and grid; in the linear family
    /// `const TILE_ROWS` and `const TILE_COLUMNS` set the grid. A text lives as long as the program.
    ///
    /// # Errors
    /// [`Error::Request`] for a name that no kernel has; [`Error::Kernel`] with the place in the text if it does not
    /// compile or has another interface.
    pub fn of(name: &str, file: &str, text: &str) -> Result<Vec<&'static CustomKernel>> {
        let form = kernels::form(name)?;
        let text: &'static str = text.to_string().leak();
        let file: &'static str = file.to_string().leak();
        let ours = kernels::all().filter(|kernel| kernel.form == form);
        ours.map(|ours| Ok(&*Box::leak(Box::new(replace(ours, file, text)?)))).collect()
    }
}

fn replace(ours: &'static Kernel, file: &'static str, text: &'static str) -> Result<CustomKernel> {
    // A piece with an entry point calls what the text replaces.
    let pieces = ours.sources[..ours.sources.len() - 1].iter().copied().filter(|piece| !piece.contains("@compute"));
    let mut front: Vec<&'static str> = pieces.collect();
    let declares = |text: &str| text.contains("@binding");
    // A text with bindings of its own may stand alone, or want our functions; never our bindings as well.
    if declares(text) && (front.iter().any(|piece| declares(piece)) || wgsl::parse_str(text).is_ok()) {
        front.clear();
    }
    let front = &front[..];
    let sources: &'static [&'static str] = [front, &[text]].concat().leak();
    let whole = sources.concat();
    let refused = |at, problem: &str| refused(file, text, front, at, problem);
    let module = wgsl::parse_str(&whole).map_err(|e| refused(e.location(&whole), e.message()))?;
    if !module.entry_points.iter().any(|entry| entry.name == "main") {
        return Err(refused(None, "it has no entry point `main`"));
    }
    // Formats of weights have kernels of their own, which must not pass for each other.
    let name = format!("{file}{}", ours.name.strip_prefix(ours.form).unwrap_or_default()).leak();
    let kernel = Kernel { name, form: file, file, sources, ..*ours };
    let info = kernels::validated(&module, &kernel);
    let info = info.map_err(|e| refused(e.location(&whole), &innermost(e.as_inner())))?;
    let parsed = Parsed { name, module, info };
    if let Some(problem) = difference(&ours.interface(&[])?, &kernels::reflect(&parsed, &[])?) {
        return Err(refused(None, &problem));
    }
    let constant = |name| kernels::constant(&parsed.module, name);
    let tile = constant("TILE_ROWS").zip(constant("TILE_COLUMNS"));
    if tile.is_some_and(|(rows, columns)| rows == 0 || columns == 0) {
        return Err(refused(None, "TILE_ROWS and TILE_COLUMNS must be at least 1"));
    }
    Ok(CustomKernel { name: ours.name, kernel, tile })
}

/// Turns a complaint of naga's into an error, with the line of the user's text and not of what stands in front of it.
fn refused(file: &str, text: &str, front: &[&str], at: Option<naga::SourceLocation>, problem: &str) -> Error {
    let before: usize = front.iter().map(|piece| piece.lines().count()).sum();
    // A mistake in front can only be ours, or the absence of something it needs.
    let line = at.and_then(|at| (at.line_number as usize).checked_sub(before)).filter(|&line| line > 0);
    let excerpt = line.and_then(|line| text.lines().nth(line - 1)).map(|line| line.trim().to_string());
    Error::Kernel { file: file.into(), line: line.map(|line| line as u32), problem: problem.into(), excerpt }
}

/// The last of a chain of causes: the one that says what is wrong.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut messages = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        messages.push(cause.to_string());
        source = cause.source();
    }
    messages.pop().unwrap_or_default()
}

/// Says in words how an interface differs from the one it has to be.
fn difference(want: &Interface, have: &Interface) -> Option<String> {
    let shape = |interface: &Interface| -> Vec<String> {
        interface.bindings.iter().enumerate().map(|(i, (_, kind))| format!("{i}: {kind:?}")).collect()
    };
    if shape(want) != shape(have) {
        let names: Vec<String> =
            want.bindings.iter().enumerate().map(|(i, (n, kind))| format!("{i} {n} {kind:?}")).collect();
        return Some(format!("its bindings must be {}, and are {}", names.join(", "), shape(have).join(", ")));
    }
    let missing: Vec<&str> =
        want.constants.iter().filter(|name| !have.constants.contains(name)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Some(format!(
            "it must declare the override constants {} as the kernel it replaces",
            missing.join(", ")
        ));
    }
    None
}
