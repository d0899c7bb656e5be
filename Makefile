# Everything a person runs here. On Windows and macOS use the cargo commands after the arrows.

# Wayland's library complains where this is not set, as in containers. The program sees to that itself.
export XDG_RUNTIME_DIR ?= /tmp
# Whoever builds once gains nothing by what makes the next build short; `cargo test` still does it.
test test-jobs test-lab test-capi test-serve test-ray test-drivers test-desktop shaders targets: export CARGO_INCREMENTAL ?= 0

.PHONY: demo desktop test test-jobs test-lab test-capi test-serve test-ray test-drivers test-desktop shaders targets check bench isa isa-check vulkan

demo: vulkan      ## answer questions about the bundled pictures   -> cargo run --release -- demo
	cargo run --release -- demo

desktop: vulkan   ## build and start the desktop app (Rust 1.95)   -> cargo run --release -p instructblip-desktop
	cargo run --release -p instructblip-desktop

test: vulkan      ## build and run every test                      -> cargo test
	cargo test

test-jobs: vulkan ## jobs killed a thousand times, and large ones: minutes
	cargo test --test library jobs:: -- --include-ignored --nocapture
	cargo test --test program jobs:: -- --include-ignored --nocapture

test-lab: vulkan  ## clocks, search for sizes, GPUs' kernels by matrices, 8 bits' accuracy, a thousand random stops: half an hour
	cargo test --test library lab:: -- --include-ignored
	cargo test --test library matrices:: -- --ignored
	cargo test --test library loading:: -- --ignored
	cargo test --test program commands::bench -- --include-ignored
	STOPS=1000 cargo test --test library stopping:: -- --nocapture

test-capi: vulkan ## the C interface: its header, its examples under valgrind, mistakes, 200 cancelled questions
	cargo clippy -p instructblip-capi --all-targets -- -D warnings
	cargo test -p instructblip-capi -- --include-ignored

test-serve: vulkan ## the server: 10,000 hostile requests, OpenAI's clients of Python and Node, its page in Chromium
	cargo build
	HOSTILE=10000 cargo test --test program serve::hostile -- --nocapture
	tests/serve/clients.sh target/debug/instructblip
	tests/serve/page.sh target/debug/instructblip

test-ray: vulkan  ## the driver for Ray, in an environment of its own under target
	cargo build --release
	integrations/ray/test.sh target/release/instructblip

test-drivers: vulkan ## what shows that kernels are right, on each Vulkan driver for the CPU that can be had (Linux)
	MISSING=1 tools/drivers/fetch.sh mesa swiftshader
	tools/drivers/test.py

test-desktop: vulkan ## the desktop app's tests                   -> cargo test -p instructblip-desktop
	cargo test -p instructblip-desktop

shaders:          ## every kernel before other compilers than naga; tells which are missing
	tools/shaders/judge.py

targets: vulkan   ## other systems: type-checked, built, run under wine and qemu; tells what is missing (Linux)
	tools/targets/run.py

check:            ## formatting, lints, docs                       -> the commands below
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

bench: vulkan     ## kernel and stage benchmarks                   -> cargo bench
	GIT_COMMIT=$$(git rev-parse --short HEAD) cargo bench

# GPU=nv-ada, or several in quotes: those alone. The drivers come by tools/drivers/fetch.sh.
isa:              ## what GPUs' compilers make of the kernels      -> tools/isa/README.md
	cargo run --manifest-path tools/isa/Cargo.toml -- $(GPU)

isa-check:        ## the same, held to tools/isa/limits.txt
	cargo run --manifest-path tools/isa/Cargo.toml -- --check $(GPU)

vulkan:
	@tools/ensure_vulkan.sh
