# Everything a person runs here. On Windows and macOS use the cargo commands after the arrows.

# Wayland's library complains where this is not set, as in containers. The program sees to that itself.
test bench: export XDG_RUNTIME_DIR ?= /tmp
# Whoever builds once gains nothing by what makes the next build short; `cargo test` still does it.
test: export CARGO_INCREMENTAL ?= 0

.PHONY: demo test check bench vulkan

demo: vulkan      ## answer questions about the bundled pictures   -> cargo run --release -- demo
	cargo run --release -- demo

test: vulkan      ## build and run every test                      -> cargo test
	cargo test

check:            ## formatting, lints, docs                       -> the commands below
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

bench: vulkan     ## kernel and stage benchmarks                   -> cargo bench
	GIT_COMMIT=$$(git rev-parse --short HEAD) cargo bench

vulkan:
	@tools/ensure_vulkan.sh
