//! `instructblip devices`: what there is, and what would be used.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use instructblip::error::Bytes;
use instructblip::runtime::{AdapterSummary, MatrixSize, list_adapters};
use serde_json::json;

use crate::common::{Adapter, Common};

/// Arguments of `devices`.
#[derive(Args, Debug)]
pub struct Devices {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub gpu: Adapter,
}

pub fn run(common: &Common, devices: &Devices) -> Result<()> {
    let adapters = list_adapters(common.adapter.as_deref());
    let mut out = std::io::stdout().lock();
    if devices.json {
        writeln!(out, "{}", serde_json::Value::from(adapters.iter().map(to_json).collect::<Vec<_>>()))?;
    } else {
        adapters.iter().try_for_each(|adapter| write!(out, "{}", describe(adapter)))?;
    }
    // Asking to open one gives the message and the exit code that every other command would.
    if !adapters.iter().any(|a| a.chosen) {
        crate::session::open_device(common)?;
    }
    Ok(())
}

/// An adapter as JSON.
pub fn to_json(a: &AdapterSummary) -> serde_json::Value {
    json!({
        "name": a.name, "backend": a.backend, "type": a.kind, "driver": a.driver, "chosen": a.chosen,
        "problem": a.problem,
        "features": {
            "shader_f16": a.shader_f16,
            "matrix_edge": a.matrix.map(MatrixSize::edge),
            "subgroup_sizes": a.subgroup_sizes.map(|(low, high)| [low, high]),
            "timestamps": a.timestamps,
        },
        "memory_bytes": a.memory_bytes,
        "limits": {
            "max_binding_bytes": a.max_binding_bytes,
            "max_buffer_bytes": a.max_buffer_bytes,
            "max_workgroup_bytes": a.max_workgroup_bytes,
            "max_storage_buffers": a.max_storage_buffers,
            "max_workgroup_invocations": a.max_workgroup_invocations,
        },
    })
}

/// Matrices in words.
pub fn by_edge(size: MatrixSize) -> String {
    format!("{0} x {0}", size.edge())
}

/// An adapter in a few lines.
pub fn describe(a: &AdapterSummary) -> String {
    let yes = |has: bool| if has { "yes" } else { "no" };
    let subgroups = match a.subgroup_sizes {
        None => "no".to_string(),
        Some((low, high)) if low == high => low.to_string(),
        Some((low, high)) => format!("{low} to {high}"),
    };
    let problem = a.problem.as_ref().map_or(String::new(), |problem| format!("    cannot be used: {problem}\n"));
    format!(
        "{} {} ({}, {}, {})\n    16-bit floats {}, matrices {}, subgroups {subgroups}, timestamps {}\n    \
         {}bindings to {} MiB, buffers to {} MiB, {} KiB of workgroup memory\n{problem}",
        if a.chosen { "*" } else { " " },
        a.name,
        a.kind,
        a.backend,
        a.driver,
        yes(a.shader_f16),
        a.matrix.map_or("no".into(), by_edge),
        yes(a.timestamps),
        a.memory_bytes.map_or(String::new(), |bytes| format!("{} of memory, ", Bytes(bytes))),
        a.max_binding_bytes >> 20,
        a.max_buffer_bytes >> 20,
        a.max_workgroup_bytes >> 10,
    )
}

/// An adapter for tests: a discrete GPU with what WebGPU promises and no more.
#[cfg(test)]
pub fn example() -> AdapterSummary {
    AdapterSummary {
        name: "a GPU".into(),
        backend: "Vulkan".into(),
        kind: instructblip::runtime::AdapterKind::DiscreteGpu,
        driver: "a driver".into(),
        shader_f16: false,
        matrix: None,
        subgroup_sizes: None,
        timestamps: false,
        max_binding_bytes: 128 << 20,
        max_buffer_bytes: 256 << 20,
        max_workgroup_bytes: 16 << 10,
        memory_bytes: None,
        max_storage_buffers: 8,
        max_workgroup_invocations: 256,
        problem: None,
        chosen: true,
    }
}
