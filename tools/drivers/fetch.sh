#!/bin/sh
# Fetches Vulkan drivers other than the system's into a folder outside git, beside what is installed and without root.
#
#   fetch.sh mesa         Debian sid's Mesa with the libraries it needs, SPIR-V and GLSL tools, and the shims that
#                         pretend to be a GPU's kernel driver: whatever is compiled is compiled for that GPU
#   fetch.sh intel-shim   the one shim that Debian does not ship, built from Mesa's source (ten minutes)
#   fetch.sh swiftshader  Chromium's Vulkan for the CPU, out of Debian's package
#   fetch.sh tint         no driver: Chromium's WebGPU for node, with its compiler for WGSL, from npm
#
# DRIVERS   the folder (target/drivers): mesa/ as unpacked, icd/ the drivers' manifests with absolute paths, and so on
# MISSING=1 fetches only what is not there
#
# Archives move: VERSION in a driver's folder says what came. Numbers of two versions are not compared.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
drivers=${DRIVERS:-$here/../../target/drivers}
mkdir -p "$drivers"
drivers=$(cd "$drivers" && pwd)

need() {
    for program; do
        command -v "$program" >/dev/null || { echo "fetch.sh $what: needs $program, which is not installed" >&2; exit 1; }
    done
}

# Debian's archive through a configuration of its own: neither the system's sources nor what it has installed count.
# in_archive SUITE TYPE WORDS OF APT-GET...
in_archive() {
    apt=$drivers/apt/$1
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] || { echo "fetch.sh $what: needs the package debian-archive-keyring" >&2; exit 1; }
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status"
    echo "$2 [signed-by=$keys] http://deb.debian.org/debian $1 main" >"$apt/sources.list"
    shift 2
    apt-get -y --no-install-recommends -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Dir::Cache::archives="$apt/archives" -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
        -o APT::Update::Error-Mode=any "$@" ||
        { echo "fetch.sh $what: Debian's archive could not be read: is there no network?" >&2; exit 1; }
}

fetch_mesa() {
    need apt-get dpkg dpkg-deb
    in_archive sid deb update
    rm -f "$drivers"/apt/sid/archives/*.deb
    in_archive sid deb install --download-only \
        mesa-vulkan-drivers mesa-drm-shim libvulkan1 vulkan-tools libc6 spirv-tools glslang-tools
    rm -rf "$drivers/mesa.new"
    mkdir "$drivers/mesa.new"
    for package in "$drivers"/apt/sid/archives/*.deb; do
        dpkg -x "$package" "$drivers/mesa.new"
    done
    dpkg-deb -f "$drivers"/apt/sid/archives/mesa-vulkan-drivers_*.deb Version >"$drivers/mesa.new/VERSION"
    rm -rf "$drivers/mesa"
    mv "$drivers/mesa.new" "$drivers/mesa"
    rm -f "$drivers"/apt/sid/archives/*.deb
    manifests
    place_intel_shim
    echo "Mesa $(cat "$drivers/mesa/VERSION") is in $drivers/mesa"
}

# The loader looks for a bare library name in the system's folders; here it is given the path.
manifests() {
    mkdir -p "$drivers/icd"
    for from in "$drivers"/mesa/usr/share/vulkan/icd.d/*.json; do
        library=$(sed -n 's/.*"library_path": *"\([^"]*\)".*/\1/p' "$from")
        library=$(echo "$drivers"/mesa/usr/lib/*-linux-gnu/"${library##*/}")
        name=${from##*/}
        name=${name%%.*}
        sed "s|\"library_path\": *\"[^\"]*\"|\"library_path\": \"$library\"|" "$from" >"$drivers/icd/${name%_icd}.json"
    done
}

# Of an old release, whose build wants no newer C library than the system's. The manifest has the library beside itself.
fetch_swiftshader() {
    need apt-get dpkg-deb tar
    in_archive bookworm deb update
    new=$drivers/swiftshader.new
    rm -rf "$new"
    mkdir "$new"
    (cd "$new" && in_archive bookworm deb download chromium-common)
    dpkg-deb --fsys-tarfile "$new"/chromium-common_*.deb | tar -x -C "$new" --strip-components=4 \
        ./usr/lib/chromium/libvk_swiftshader.so ./usr/lib/chromium/vk_swiftshader_icd.json
    dpkg-deb -f "$new"/chromium-common_*.deb Version >"$new/VERSION"
    rm "$new"/chromium-common_*.deb
    rm -rf "$drivers/swiftshader"
    mv "$new" "$drivers/swiftshader"
    echo "SwiftShader of Chromium $(cat "$drivers/swiftshader/VERSION") is in $drivers/swiftshader"
}

fetch_tint() {
    need npm
    rm -rf "$drivers/tint"
    mkdir "$drivers/tint"
    (cd "$drivers/tint" && npm install --silent --no-save --prefix . --ignore-scripts webgpu@0.6.2) ||
        { echo "fetch.sh $what: npm could not install webgpu: is there no network?" >&2; exit 1; }
    echo 0.6.2 >"$drivers/tint/VERSION"
    echo "Tint of webgpu 0.6.2 is in $drivers/tint"
}

# Its source is a stable release's: sid's archive offers none at times, and the shim only answers for a kernel driver.
fetch_intel_shim() {
    need apt-get dpkg-source python3 cc c++ pkg-config bison flex m4
    pkg-config --exists libdrm || { echo "fetch.sh $what: needs libdrm-dev" >&2; exit 1; }
    work=$drivers/intel-shim
    rm -rf "$work"
    mkdir -p "$work"
    python3 -m venv "$work/python"
    "$work/python/bin/pip" install --quiet meson ninja mako pyyaml packaging
    in_archive trixie deb-src update
    (cd "$work" && in_archive trixie deb-src source mesa)
    PATH=$work/python/bin:$PATH
    cd "$work"/mesa-*/
    meson setup "$work/build" -Dtools=drm-shim,intel -Dvulkan-drivers= -Dgallium-drivers= -Dllvm=disabled \
        -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dopengl=false -Dplatforms= -Dbuildtype=release
    nice ninja -C "$work/build" src/intel/tools/libintel_noop_drm_shim.so
    cp "$work/build/src/intel/tools/libintel_noop_drm_shim.so" "$drivers/"
    cd "$drivers"
    rm -rf "$work"
    place_intel_shim
    echo "the shim is $drivers/libintel_noop_drm_shim.so"
}

place_intel_shim() {
    if [ -e "$drivers/libintel_noop_drm_shim.so" ] && [ -d "$drivers/mesa" ]; then
        cp "$drivers/libintel_noop_drm_shim.so" "$drivers"/mesa/usr/lib/*-linux-gnu/
    fi
}

[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for what; do
    [ -z "${MISSING:-}" ] || [ ! -e "$drivers/$what/VERSION" ] || continue
    case $what in
    mesa) fetch_mesa ;;
    intel-shim) fetch_intel_shim ;;
    swiftshader) fetch_swiftshader ;;
    tint) fetch_tint ;;
    *) echo "fetch.sh: knows mesa, intel-shim, swiftshader and tint, not $what" >&2; exit 2 ;;
    esac
done
