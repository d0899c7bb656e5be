#!/bin/sh
# Makes sure that Linux has a Vulkan loader and a driver. Does nothing where both are there; otherwise installs
# Mesa's, which include a software driver, with the machine's package manager.
set -eu

[ "$(uname -s)" = Linux ] || exit 0

has_loader() {
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep -q 'libvulkan\.so\.1' ||
        ls /usr/lib*/libvulkan.so.1 /usr/lib/*/libvulkan.so.1 >/dev/null 2>&1
}

has_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    data="${XDG_DATA_HOME:-${HOME:-/nonexistent}/.local/share}"
    for folder in /usr/share /usr/local/share /etc /usr/local/etc "$data"; do
        ls "$folder"/vulkan/icd.d/*.json >/dev/null 2>&1 && return 0
    done
    return 1
}

has_loader && has_driver && exit 0

if command -v apt-get >/dev/null; then
    install="apt-get install -y libvulkan1 mesa-vulkan-drivers"
    refresh="apt-get update"
elif command -v dnf >/dev/null; then
    install="dnf install -y vulkan-loader mesa-vulkan-drivers"
elif command -v pacman >/dev/null; then
    install="pacman -S --noconfirm vulkan-icd-loader vulkan-swrast"
elif command -v zypper >/dev/null; then
    install="zypper --non-interactive install libvulkan1 libvulkan_lvp"
elif command -v apk >/dev/null; then
    install="apk add vulkan-loader mesa-vulkan-swrast"
else
    echo "There is no Vulkan driver, and no package manager this script knows. Install a Vulkan driver for your" >&2
    echo "GPU, or Mesa's software driver (lavapipe), and run the command again." >&2
    exit 1
fi

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root="sudo"
    else
        echo "There is no Vulkan driver, and installing one needs root. Run this as root, then the command again:" >&2
        echo "    $install" >&2
        exit 1
    fi
fi

echo "No Vulkan driver found: installing Mesa's (${as_root:+$as_root }$install)" >&2
export DEBIAN_FRONTEND=noninteractive
if ! { { [ -z "${refresh:-}" ] || $as_root $refresh; } && $as_root $install; } >&2; then
    echo "Installing Mesa's Vulkan driver failed; install one by hand and run the command again." >&2
    exit 1
fi
