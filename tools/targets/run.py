#!/usr/bin/env python3
"""Tries other systems from Linux: type-checks every package for macOS and Windows, builds the program for Windows and
for 64-bit Arm, and runs these two, under wine and under qemu.

    run.py [TARGET...]      all of them, or these

A target needs its standard library, which `rustup target add` brings, or a toolchain with the library's source. What
is missing is told, with what brings it on Debian. Logs, programs and wine's folder are in target/targets. Ends with 1
if something failed or nothing could be tried."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target/targets"
CHECKED = ["aarch64-apple-darwin", "x86_64-pc-windows-msvc"]
WINDOWS, ARM = "x86_64-pc-windows-gnu", "aarch64-unknown-linux-gnu"
LINKERS = {WINDOWS: "x86_64-w64-mingw32-gcc", ARM: "aarch64-linux-gnu-gcc"}
PROGRAM = "instructblip"
# Debian's packages of programs that are called here.
PACKAGES = {
    "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "wine": "wine wine64",
    "Xvfb": "xvfb",
    "qemu-aarch64": "qemu-user",
}
# Nothing that runs takes longer, on two cores and emulated. Builds take what they take.
LONGEST_S = 1800


class Missing(Exception):
    """Something that is not there, with what brings it."""


class Failed(Exception):
    """Something that came out wrong."""


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"there is no {program}; apt-get install {PACKAGES[program]}")


def rustlib(rustc):
    """The folder of a compiler's standard libraries; None if it does not run."""
    try:
        done = subprocess.run([rustc, "--print", "sysroot"], stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return Path(done.stdout.strip()) / "lib/rustlib"


def toolchain(target):
    """A cargo that has a standard library for the target, or else its source, to build it from; with its environment
    and options. The system's own comes after the one that is called by name."""
    for cargo in filter(None, [shutil.which("cargo"), shutil.which("cargo", path="/usr/bin")]):
        rustc = str(Path(cargo).with_name("rustc"))
        if not (libraries := rustlib(rustc)):
            continue
        if (libraries / target / "lib").exists():
            return cargo, {"RUSTC": rustc}, []
        if (libraries / "src/rust/library/std").exists():
            return cargo, {"RUSTC": rustc, "RUSTC_BOOTSTRAP": "1"}, ["-Zbuild-std=std,panic_abort,panic_unwind"]
    packages = "rustc-web cargo-web libstd-rust-web-dev rust-web-src"
    raise Missing(f"no standard library; rustup target add {target}, or apt-get install {packages} (Debian 12)")


def run(name, command, env, codes=(0,), longest_s=LONGEST_S):
    """What a command writes to stdout; the rest is in a log."""
    path = FOLDER / f"{name}.log"
    options = {"cwd": ROOT, "env": {**os.environ, **env}, "timeout": longest_s}
    with path.open("w") as log:
        try:
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
            done = subprocess.run(command, **streams, **options)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} takes more than {longest_s} s, see {path.relative_to(ROOT)}") from None
    text = done.stdout.decode(errors="replace")
    with path.open("a") as log:
        log.write(text)
    if done.returncode not in codes:
        raise Failed(f"{name} ends with {done.returncode}, see {path.relative_to(ROOT)}")
    return text


def cargo(action, target, package):
    """Checks or builds a package, in a folder that other builds do not use."""
    program, env, options = toolchain(target)
    if target in LINKERS:
        need(LINKERS[target])
        env[f"CARGO_TARGET_{target.upper().replace('-', '_')}_LINKER"] = LINKERS[target]
    env["CARGO_TARGET_DIR"] = str(FOLDER)
    command = [program, action, "--locked", *options, "--target", target, "--package", package]
    run(f"{target}-{package}", command, env, longest_s=None)


def packages():
    metadata = ["cargo", "metadata", "--no-deps", "--format-version=1"]
    done = subprocess.run(metadata, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return [package["name"] for package in json.loads(done.stdout)["packages"]]


def expect(right, what, found):
    if not right:
        raise Failed(f"{what}: {found}")


@contextmanager
def display():
    """The number of a display, without which wine has no Vulkan."""
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        number = server.stdout.readline().strip()
        expect(number, "Xvfb", "opens no display")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def wine():
    """The environment of a wine of its own, which claims to be Windows 10 and has what older ones lack."""
    need("wine", "Xvfb")
    with display() as number:
        env = {"DISPLAY": number, "WINEPREFIX": str(FOLDER / "wine"), "WINEDEBUG": "-all"}
        # Neither .NET nor a browser, which it would offer to fetch.
        env["WINEDLLOVERRIDES"] = "mscoree,mshtml="
        try:
            run("wine-boot", ["wine", "wineboot", "--init"], env)
            run("wine-version", ["wine", "winecfg", "-v", "win10"], env)
            library = Path(env["WINEPREFIX"], "drive_c/windows/system32/bcryptprimitives.dll")
            if not library.exists():
                source = Path(__file__).with_name("bcryptprimitives.c")
                compiler = [LINKERS[WINDOWS], "-O2", "-shared", "-o", library, source, "-ladvapi32"]
                run("wine-bcryptprimitives", compiler, {})
            yield env
        finally:
            subprocess.run(["wineserver", "--kill"], env={**os.environ, **env}, check=False)


def run_windows(program):
    """The self-test and an answer, over Vulkan: what wine has in the place of DX12 computes nothing right."""
    with wine() as env:
        env["WGPU_BACKEND"] = "vulkan"
        # It ends with 7 where a kernel is wrong.
        report = json.loads(run("wine-selftest", ["wine", program, "selftest", "--json", "-q"], env, codes=(0, 7)))
        cases = f"{report['passed']} cases of {len(report['kernels'])} kernels right"
        expect(report["passed"] and not report["failed"], "self-test", f"{cases}, {report['failed']} cases wrong")
        question = ["tests/shapes/samples/11.png", "Which is the smallest shape?"]
        answer = run("wine-ask", ["wine", program, "ask", *question, "-q"], env)
        expect(answer.splitlines() == ["green star"], "ask", f"answers {answer!r}, not 'green star'")
    return f"wine, {report['adapter']['name']}: self-test ({cases}), ask"


def run_arm(program):
    """What needs no GPU: Vulkan drivers for another processor are hardly at hand."""
    need("qemu-aarch64")
    emulated = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program]
    usage = run("qemu-help", [*emulated, "--help"], {})
    expect(f"Usage: {PROGRAM}" in usage, "--help", f"says {usage[:80]!r}")
    plan = json.loads(run("qemu-plan", [*emulated, "plan", "instructblip-vicuna-7b", "--json"], {}))
    published = re.search(r"instructblip-vicuna-7b` \| [^|]* \| ([^|]*) \|", (ROOT / "README.md").read_text())[1]
    peak = f"{plan['peak_bytes'] / 1e9:.1f} GB"
    expect(peak == published, "plan", f"{peak} for instructblip-vicuna-7b, in README.md {published}")
    # Without a GPU it ends with 4.
    page = json.loads(run("qemu-doctor", [*emulated, "doctor", "--json"], {}, codes=(0, 4)))
    verdict = page["fix_first"] or "ready"
    as_it_should = page["machine"]["arch"] == "aarch64" and verdict.startswith(("ready", "no usable GPU"))
    expect(as_it_should, "doctor", f"{page['machine']['arch']}: {verdict}")
    return "qemu: --help, plan, doctor"


def try_one(target, package):
    """A row of the table. What is missing or wrong has a line of its own, at once."""
    print(f"{target}, {package}", flush=True)
    started = time.monotonic()
    compiled, ran, result = "no", "no", "right"
    try:
        if target in CHECKED:
            cargo("check", target, package)
            compiled = "type-checked"
        else:
            cargo("build", target, package)
            compiled = "built"
            program = FOLDER / target / "debug" / PROGRAM
            ran = run_windows(program.with_suffix(".exe")) if target == WINDOWS else run_arm(program)
    except Missing as e:
        print(f"  NOT TRIED: {e}", flush=True)
        result = "right as far as tried" if compiled == "built" else "not tried"
    except Failed as e:
        print(f"  FAILED: {e}", flush=True)
        result = "FAILED"
    return [target, package, compiled, ran, result, f"{time.monotonic() - started:.0f} s"]


def main():
    known = [*CHECKED, *LINKERS]
    targets = sys.argv[1:] or known
    if unknown := set(targets) - set(known):
        sys.exit(f"run.py: knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    # The others are libraries and windows, of which a build would show nothing that a check does not.
    parts = [(target, name) for target in targets for name in packages() if target in CHECKED or name == PROGRAM]
    rows = [["target", "package", "compiled", "run", "result", "time"], *(try_one(*part) for part in parts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    results = {row[4] for row in rows[1:]}
    sys.exit(1 if "FAILED" in results or results == {"not tried"} else 0)


main()
