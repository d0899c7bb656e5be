//! The GPUs that kernels are compiled for.

use crate::dialect::Dialect;

/// A GPU, and how its driver tells what it did.
pub struct Gpu {
    /// The name of its table.
    pub name: &'static str,
    /// The name by which tools/drivers/run.sh knows its driver.
    pub driver: &'static str,
    /// False where buffers' bounds are not looked after by the driver.
    pub robust: bool,
    pub dialect: Dialect,
}

const fn gpu(name: &'static str, dialect: Dialect) -> Gpu {
    Gpu { name, driver: name, robust: true, dialect }
}

/// Every GPU that has a table. The drivers of two of them make other code where they need not look after bounds.
pub const ALL: [Gpu; 10] = [
    gpu("nv-ada", Dialect::Nak),
    Gpu { name: "nv-ada-unrobust", driver: "nv-ada", robust: false, dialect: Dialect::Nak },
    gpu("rdna2", Dialect::Aco),
    gpu("rdna3", Dialect::Aco),
    gpu("rdna4", Dialect::Aco),
    gpu("m1", Dialect::Agx),
    Gpu { name: "m1-unrobust", driver: "m1", robust: false, dialect: Dialect::Agx },
    gpu("dg2", Dialect::Brw),
    gpu("xe2", Dialect::Brw),
    gpu("a750", Dialect::Ir3),
];

/// Those of this name, or all.
pub fn named(names: &[String]) -> anyhow::Result<Vec<&'static Gpu>> {
    let find = |name: &String| {
        let known = || anyhow::anyhow!("no GPU {name}; there are {}", ALL.map(|gpu| gpu.name).join(", "));
        ALL.iter().find(|gpu| gpu.name == name).ok_or_else(known)
    };
    if names.is_empty() { Ok(ALL.iter().collect()) } else { names.iter().map(find).collect() }
}
