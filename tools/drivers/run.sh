#!/bin/sh
# run.sh DRIVER PROGRAM...: a program under a driver that fetch.sh brought, the GPU pretended where there is one.
#
#   lvp (llvmpipe-26)                                 Mesa's driver for the CPU: what it is given it runs
#   system-lvp                                        the same of the system's Mesa
#   swiftshader                                       Chromium's driver for the CPU
#   nv-ada  rdna2  rdna3  rdna4  m1  dg2  xe2  a750   a GPU's driver over a shim: it compiles, and runs nothing
#
# More of the shims' GPUs by the variable that the driver's line below sets: `NOUVEAU_CHIPSET=170 run.sh nv-ada ...`
# is Ampere, AMDGPU_GPU_ID=vega10 GCN, INTEL_STUB_GPU_PLATFORM=tgl an Iris Xe.
# DRIVERS   the folder that fetch.sh filled (target/drivers)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
drivers=${DRIVERS:-$here/../../target/drivers}
[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
driver=$1
shift

export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
# The programs of these are the system's own.
run_with() {
    export VK_DRIVER_FILES="$1"
    shift
    exec "$@"
}

case $driver in
system-lvp)
    for manifest in /usr/share/vulkan/icd.d/lvp_icd*.json /usr/local/share/vulkan/icd.d/lvp_icd*.json; do
        [ ! -e "$manifest" ] || run_with "$manifest" "$@"
    done
    echo "run.sh: the system's Mesa has no llvmpipe for Vulkan" >&2
    exit 1
    ;;
swiftshader)
    [ -e "$drivers/swiftshader/VERSION" ] ||
        { echo "run.sh: $drivers has no SwiftShader; tools/drivers/fetch.sh swiftshader brings it" >&2; exit 1; }
    run_with "$drivers/swiftshader/vk_swiftshader_icd.json" "$@"
    ;;
lvp | llvmpipe-26) icd=lvp shim= ;;
nv-ada) icd=nouveau shim=nouveau; export NOUVEAU_CHIPSET="${NOUVEAU_CHIPSET:-190}" ;;
rdna2) icd=radeon shim=amdgpu; export AMDGPU_GPU_ID="${AMDGPU_GPU_ID:-navi21}" ;;
rdna3) icd=radeon shim=amdgpu; export AMDGPU_GPU_ID="${AMDGPU_GPU_ID:-navi31}" ;;
rdna4) icd=radeon shim=amdgpu; export AMDGPU_GPU_ID="${AMDGPU_GPU_ID:-gfx1201}" ;;
m1) icd=asahi shim=asahi ;;
dg2) icd=intel shim=intel; export INTEL_STUB_GPU_PLATFORM="${INTEL_STUB_GPU_PLATFORM:-dg2}" ;;
xe2) icd=intel shim=intel; export INTEL_STUB_GPU_PLATFORM="${INTEL_STUB_GPU_PLATFORM:-lnl}" ;;
a750) icd=freedreno shim=freedreno; export FD_GPU_ID="${FD_GPU_ID:-750}" ;;
*) echo "run.sh: no driver $driver" >&2; exit 2 ;;
esac

[ -e "$drivers/icd/$icd.json" ] || { echo "run.sh: $drivers has no Mesa; tools/drivers/fetch.sh mesa brings it" >&2; exit 1; }
drivers=$(cd "$drivers" && pwd)
libraries=$(echo "$drivers"/mesa/usr/lib/*-linux-gnu)
preload=
if [ -n "$shim" ]; then
    preload=$libraries/lib${shim}_noop_drm_shim.so
    [ -e "$preload" ] || { echo "run.sh: no $preload; tools/drivers/fetch.sh intel-shim builds Intel's" >&2; exit 1; }
fi

export VK_DRIVER_FILES="$drivers/icd/$icd.json"
# The libraries are a newer distribution's, and so is their C library: the program runs with its loader.
exec "$(echo "$libraries"/ld-linux-*.so.*)" --library-path "$libraries" ${preload:+--preload "$preload"} "$@"
