//! Times kernels: `instructblip bench kernels` with the arguments of `cargo bench --bench kernels -- …`.

mod support;

fn main() -> std::io::Result<std::process::ExitCode> {
    support::program("kernels")
}
