//! Times a model stage by stage: `instructblip bench model` with the arguments of `cargo bench --bench stages -- …`.

mod support;

fn main() -> std::io::Result<std::process::ExitCode> {
    support::program("model")
}
