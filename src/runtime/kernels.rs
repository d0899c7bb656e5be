//! The kernel registry: WGSL sources and their interfaces by naga reflection.

use crate::error::{Error, Result, first_line};

/// One WGSL kernel: shared pieces put in front of one file, all with one entry point, `main`, mostly that file's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The name in listings and benches: the form, and for weight formats other than f16, or caches other than f32, the
    /// format behind it.
    pub name: &'static str,
    /// The name without a format, by which a form is asked for.
    pub form: &'static str,
    /// The file's name without `.wgsl`.
    pub file: &'static str,
    /// Source texts in order.
    pub sources: &'static [&'static str],
    /// The features it wants of an adapter.
    pub needs: Needs,
}

/// The features that a kernel wants of an adapter beyond plain WebGPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Subgroup operations.
    Subgroups,
    /// Subgroup operations and 64-bit integers, as software adapters have them.
    Software,
    /// 16-bit floats.
    Halves,
    /// Memory by which the workgroups of one dispatch can read what others have written.
    Coherent,
    /// Subgroups that multiply matrices of f16, and what [`Needs::Coherent`] stands for.
    Matrices,
}

impl Needs {
    /// The largest relative L2 error that is right, where sums of f32 in another order are held to `bound`.
    ///
    /// Kernels by matrices round what they multiply to f16, each value by up to 2⁻¹¹ of itself, which references in f64
    /// do not: of rounded inputs their results are as exact as others, of the inputs as they are they are off by 3e-4.
    pub fn bound(self, bound: f64) -> f64 {
        match self {
            Needs::Matrices => bound.max(1e-3),
            Needs::Nothing | Needs::Subgroups | Needs::Software | Needs::Halves | Needs::Coherent => bound,
        }
    }
}

macro_rules! kernel {
    ($file:literal, $form:literal, $suffix:literal, [$($shared:literal)*] $([$weights:literal $format:literal])?, $needs:ident) => {
        Kernel {
            name: concat!($form, $suffix),
            form: $form,
            file: $file,
            sources: &[
                $(include_str!(concat!("../../shaders/shared/", $shared, ".wgsl")),)*
                $(include_str!(concat!("../../shaders/shared/", $weights, $format, ".wgsl")),)?
                include_str!(concat!("../../shaders/", $file, ".wgsl")),
            ],
            needs: Needs::$needs,
        }
    };
}

/// Kernels that are the same whatever the weights.
macro_rules! kernels {
    ($($constant:ident = $form:literal $file:literal [$($shared:literal),*] $needs:ident;)*) => {
        $(
            #[doc = concat!("`shaders/", $file, ".wgsl`.")]
            pub static $constant: Kernel = kernel!($file, $form, "", [$($shared)*], $needs);
        )*
        static PLAIN: &[&Kernel] = &[$(&$constant),*];
    };
}

/// Kernels that are compiled for each format of weights.
macro_rules! weight_kernels {
    ($($constant:ident = $form:literal $file:literal $shared:tt $weights:literal $needs:ident;)*) => {
        $(
            #[doc = concat!("`shaders/", $file, ".wgsl`, by [`WeightFormat`](super::weight_format::WeightFormat).")]
            pub static $constant: [Kernel; 3] = weight_kernels!(@formats $form $file $shared $weights $needs);
        )*
        static BY_FORMAT: &[&[Kernel; 3]] = &[$(&$constant),*];
    };
    (@formats $form:literal $file:literal [$($shared:literal),*] $weights:literal $needs:ident) => {
        [
            kernel!($file, $form, "", [$($shared)*] [$weights "_f16"], $needs),
            kernel!($file, $form, "_q8", [$($shared)*] [$weights "_q8"], $needs),
            kernel!($file, $form, "_q4", [$($shared)*] [$weights "_q4"], $needs),
        ]
    };
}

/// Kernels that are compiled for each format of keys and values.
macro_rules! kv_kernels {
    ($($constant:ident = $form:literal $file:literal [$($shared:literal),*] $kv:tt $needs:ident;)*) => {
        $(
            #[doc = concat!("`shaders/", $file, ".wgsl`, by [`KvFormat`](super::kv_format::KvFormat).")]
            pub static $constant: [Kernel; 2] = kv_kernels!(@formats $form $file [$($shared)*] $kv $needs);
        )*
        static BY_KV_FORMAT: &[&[Kernel; 2]] = &[$(&$constant),*];
    };
    (@formats $form:literal $file:literal $shared:tt [$f32:literal, $f16:literal] $needs:ident) => {
        [kv_kernels!(@one $form $file "" $shared $f32 $needs), kv_kernels!(@one $form $file "_f16" $shared $f16 $needs)]
    };
    (@one $form:literal $file:literal $suffix:literal [$($shared:literal)*] $kv:literal $needs:ident) => {
        kernel!($file, $form, $suffix, [$($shared)* $kv], $needs)
    };
}

weight_kernels! {
    LINEAR_VEC = "linear_vec" "linear_vec" ["activation", "operands", "linear", "sum_workgroup"] "weights" Nothing;
    LINEAR_VEC_SUBGROUP = "linear_vec_subgroup" "linear_vec"
        ["activation", "operands", "linear", "sum_subgroup"] "weights" Subgroups;
    LINEAR_VEC_ROPE = "linear_vec_rope" "linear_vec"
        ["operands", "half_words", "cache", "linear_rope", "sum_workgroup"] "weights" Nothing;
    LINEAR_VEC_ROPE_SUBGROUP = "linear_vec_rope_subgroup" "linear_vec"
        ["operands", "half_words", "cache", "linear_rope", "sum_subgroup"] "weights" Subgroups;
    LINEAR_VEC_SOFTWARE = "linear_vec_software" "linear_vec_software"
        ["activation", "wide", "w_wide", "x_scalar", "linear"] "weights" Software;
    LINEAR_TILE = "linear_tile" "linear_tile" ["activation", "operands", "linear"] "weights" Nothing;
    LINEAR_TILE_SOFTWARE = "linear_tile_software" "linear_tile_software"
        ["activation", "wide", "w_wide", "x_wide", "linear"] "weights" Software;
    LINEAR_MATRIX16 = "linear_matrix16" "linear_matrix"
        ["matrix16", "activation", "half_words", "halves", "matrix_outputs"] "matrix" Matrices;
    LINEAR_MATRIX8 = "linear_matrix8" "linear_matrix"
        ["matrix8", "activation", "half_words", "halves", "matrix_outputs"] "matrix" Matrices;
}

kv_kernels! {
    ATTENTION_TILE = "attention_tile" "attention_tile"
        ["attention", "segments", "attention_four"] ["kv_f32", "kv_f16"] Nothing;
    ATTENTION_TILE_SOFTWARE = "attention_tile_software" "attention_tile_software"
        ["wide", "segments", "attention_wide"] ["kv_wide_f32", "kv_wide_f16"] Software;
    ATTENTION_MATRIX16 = "attention_matrix16" "attention_matrix"
        ["attention_matrix16", "half_words", "halves", "attention", "segments", "attention_ahead"]
        ["kv_halves_f32", "kv_halves_f16"] Matrices;
    ATTENTION_MATRIX8 = "attention_matrix8" "attention_matrix"
        ["attention_matrix8", "half_words", "halves", "attention", "segments", "attention_ahead"]
        ["kv_halves_f32", "kv_halves_f16"] Matrices;
    ATTENTION_DECODE = "attention_decode" "attention_decode"
        ["attention", "attention_whole"] ["kv_f32", "kv_f16"] Nothing;
    ATTENTION_DECODE_SHARES = "attention_decode_shares" "attention_decode"
        ["attention", "attention_shares"] ["kv_f32", "kv_f16"] Coherent;
    ATTENTION_DECODE_SOFTWARE = "attention_decode_software" "attention_decode_software"
        ["wide", "attention_wide"] ["kv_wide_f32", "kv_wide_f16"] Software;
    ATTENTION_WEIGHTS = "attention_weights" "attention_weights" ["reduce"] ["kv_f32", "kv_f16"] Nothing;
}

kernels! {
    NORM = "norm" "norm" ["reduce", "half_words", "halves"] Nothing;
    NORM_SOFTWARE = "norm_software" "norm_software" ["wide"] Software;
    CONVERT = "convert" "convert" ["half_words", "halves"] Nothing;
    ROPE = "rope" "rope" ["half_words", "cache"] Nothing;
    TURNS = "turns" "turns" [] Nothing;
    STORE = "store" "store" ["half_words", "cache"] Nothing;
    POSITIONS = "positions" "positions" [] Nothing;
    EMBED = "embed" "embed" [] Nothing;
    PUT_ROWS = "put_rows" "put_rows" [] Nothing;
    PATCH_EMBED = "patch_embed" "patch_embed" ["half_words", "halves"] Nothing;
    ELEMENTWISE = "elementwise" "elementwise" [] Nothing;
    FIT_COLUMNS = "fit_columns" "fit_columns" [] Nothing;
    ARGMAX = "argmax" "argmax" [] Nothing;
    TOP_K = "top_k" "top_k" [] Nothing;
    FILL = "fill" "fill" [] Nothing;
    CEILING_FMA = "ceiling_fma" "ceiling_fma" ["chain_f32"] Nothing;
    CEILING_FMA_F16 = "ceiling_fma_f16" "ceiling_fma" ["chain_f16"] Halves;
    CEILING_MATRIX16 = "ceiling_matrix16" "ceiling_matrix" ["matrix16"] Matrices;
    CEILING_MATRIX8 = "ceiling_matrix8" "ceiling_matrix" ["matrix8"] Matrices;
    CEILING_READ = "ceiling_read" "ceiling_read" ["stream"] Nothing;
    CEILING_READ_SOFTWARE = "ceiling_read_software" "ceiling_read" ["wide", "stream_wide"] Software;
}

/// Every kernel.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    let by_format = BY_FORMAT.iter().flat_map(|kernels| kernels.iter());
    let by_kv_format = BY_KV_FORMAT.iter().flat_map(|kernels| kernels.iter());
    by_format.chain(by_kv_format).chain(PLAIN.iter().copied())
}

/// The form of this name.
///
/// # Errors
/// [`Error::Request`] for a name that no kernel has.
pub fn form(name: &str) -> Result<&'static str> {
    let mut forms: Vec<&'static str> = all().map(|kernel| kernel.form).collect();
    forms.dedup();
    match forms.iter().find(|&&form| form == name) {
        Some(form) => Ok(form),
        None => {
            let nearest =
                forms.iter().map(|form| (strsim::damerau_levenshtein(name, form), form)).min_by_key(|near| near.0);
            let near = nearest.filter(|(distance, form)| *distance <= form.len() / 3);
            let meant = near.map_or(String::new(), |(_, form)| format!("; did you mean {form}"));
            Err(Error::request(format!("there is no kernel {name:?}{meant}; there are {}", forms.join(", "))))
        }
    }
}

impl Kernel {
    /// Says whether it is a custom one.
    pub(super) fn is_custom(&self) -> bool {
        !all().any(|ours| std::ptr::eq(ours, self))
    }

    /// Rows and columns of the matrices that it multiplies, if it does and they are of a size of its own.
    pub(super) fn matrix_edge(&self) -> Option<u32> {
        let (_, edge) = self.form.split_once("matrix")?;
        edge.split('_').next()?.parse().ok()
    }

    /// The text that is compiled.
    pub fn source(&self) -> String {
        self.sources.concat()
    }

    /// Finds by reflection what the kernel binds and how much workgroup memory it takes with these constants.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the source does not compile; a test keeps that from happening.
    pub fn interface(&self, constants: &[(&'static str, f64)]) -> Result<Interface> {
        reflect(&parse(self)?, constants)
    }
}

/// A kernel's valid text, to be looked at with one set of constants after another.
pub(super) struct Parsed {
    pub name: &'static str,
    pub module: naga::Module,
    pub info: naga::valid::ModuleInfo,
}

/// The kind of memory that a binding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
    /// `var<uniform>`, with its size in bytes.
    Uniform(u32),
}

/// A kernel's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name and kind by binding number; all bindings are in group 0 and numbered without gaps.
    pub bindings: Vec<(String, BindingKind)>,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Names of the override constants.
    pub constants: Vec<String>,
    /// Members of `struct Params`: name and byte offset.
    pub params: Vec<(String, u32)>,
}

fn refused(name: &str, e: &impl std::fmt::Display) -> Error {
    Error::Gpu { what: format!("kernel {name}"), problem: first_line(&e.to_string()) }
}

pub(super) fn parse(kernel: &Kernel) -> Result<Parsed> {
    let module = naga::front::wgsl::parse_str(&kernel.source()).map_err(|e| refused(kernel.name, &e))?;
    let info = validated(&module, kernel).map_err(|e| refused(kernel.name, &e))?;
    Ok(Parsed { name: kernel.name, module, info })
}

pub(super) fn reflect(parsed: &Parsed, constants: &[(&'static str, f64)]) -> Result<Interface> {
    let Parsed { name, module, info } = parsed;
    let values = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (resolved, _) = naga::back::pipeline_constants::process_overrides(module, info, entry, &values)
        .map_err(|e| refused(name, &e))?;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(resolved.to_ctx()).map_err(|e| refused(name, &e))?;
    let in_workgroup = |v: &naga::GlobalVariable| v.space == naga::AddressSpace::WorkGroup;
    let sizes = resolved.global_variables.iter().filter(|(_, v)| in_workgroup(v)).map(|(_, v)| layouter[v.ty].size);
    Ok(Interface {
        bindings: bindings(parsed)?,
        workgroup_bytes: sizes.map(|size| size.next_multiple_of(16)).sum(),
        constants: module.overrides.iter().filter_map(|(_, o)| o.name.clone()).collect(),
        params: params(module),
    })
}

/// Validates a kernel's module with the capabilities it asks for and no more.
pub(super) fn validated(
    module: &naga::Module,
    kernel: &Kernel,
) -> std::result::Result<naga::valid::ModuleInfo, Box<naga::WithSpan<naga::valid::ValidationError>>> {
    let capabilities = capabilities(kernel.needs);
    naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities).validate(module).map_err(Box::new)
}

/// unpack2x16float is all the kernels ask for besides plain WebGPU, and more only where one says so.
fn capabilities(needs: Needs) -> naga::valid::Capabilities {
    use naga::valid::Capabilities as Can;
    Can::SHADER_FLOAT16_IN_FLOAT32
        | match needs {
            Needs::Nothing => Can::empty(),
            Needs::Subgroups => Can::SUBGROUP,
            Needs::Software => Can::SUBGROUP | Can::SHADER_INT64,
            Needs::Halves => Can::SHADER_FLOAT16,
            Needs::Coherent => Can::MEMORY_DECORATION_COHERENT,
            Needs::Matrices => {
                Can::SUBGROUP | Can::SHADER_FLOAT16 | Can::COOPERATIVE_MATRIX | Can::MEMORY_DECORATION_COHERENT
            }
        }
}

/// The value of a module's constant of type u32.
pub(super) fn constant(module: &naga::Module, name: &str) -> Option<u32> {
    let (_, found) = module.constants.iter().find(|(_, constant)| constant.name.as_deref() == Some(name))?;
    match module.global_expressions[found.init] {
        naga::Expression::Literal(naga::Literal::U32(value)) => Some(value),
        naga::Expression::Literal(naga::Literal::AbstractInt(value)) => value.try_into().ok(),
        _ => None,
    }
}

/// Name and kind of every binding, by number.
pub(super) fn bindings(Parsed { name, module, .. }: &Parsed) -> Result<Vec<(String, BindingKind)>> {
    // Of the text as it is: resolving constants leaves out what a variant does not use.
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| refused(name, &e))?;
    let kind = |variable: &naga::GlobalVariable| match variable.space {
        naga::AddressSpace::Uniform => Some(BindingKind::Uniform(layouter[variable.ty].size)),
        naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
            Some(BindingKind::ReadWrite)
        }
        naga::AddressSpace::Storage { .. } => Some(BindingKind::Read),
        _ => None,
    };
    let mut bindings: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| Some((v.binding.as_ref()?.binding, v.name.clone().unwrap_or_default(), kind(v)?)))
        .collect();
    bindings.sort_by_key(|b| b.0);
    Ok(bindings.into_iter().map(|(_, name, kind)| (name, kind)).collect())
}

/// Name and offset of the members of `struct Params`.
fn params(module: &naga::Module) -> Vec<(String, u32)> {
    let found = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params"));
    match found.map(|(_, ty)| &ty.inner) {
        Some(naga::TypeInner::Struct { members, .. }) => {
            members.iter().map(|m| (m.name.clone().unwrap_or_default(), m.offset)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const fn named(name: &'static str, sources: &'static [&'static str]) -> Kernel {
        Kernel { name, form: name, file: name, sources, needs: Needs::Nothing }
    }

    pub fn refusal(result: Result<impl Sized>, name: &str) -> String {
        let Err(Error::Gpu { what, problem }) = result else { panic!("{name} is no Error::Gpu") };
        assert!(what.contains(name), "{what}");
        assert!(!problem.is_empty() && problem.chars().count() <= 200 && !problem.contains('\n'), "{problem}");
        problem
    }

    #[test]
    fn a_kernel_that_is_no_wgsl_is_named_in_one_line() {
        static BROKEN: Kernel = named("broken", &["fn main( { }"]);
        refusal(BROKEN.interface(&[]), "kernel broken");
    }
}
