//! Times the server with many clients against one: `instructblip bench serve` with the arguments of
//! `cargo bench --bench serve -- …`.

mod support;

fn main() -> std::io::Result<std::process::ExitCode> {
    support::program("serve")
}
