#!/usr/bin/env python3
"""Puts every variant of every kernel before compilers other than naga: what naga makes of it before spirv-val (SPIR-V)
and glslang (HLSL), the WGSL itself before Tint, which is Chromium's. A test, tests/library/shaders.rs, writes them all.

Compilers are the system's or those of tools/drivers/fetch.sh; the ones that are not there are told. Ends with 1 if
something is refused or nothing was judged."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = Path(os.environ.get("DRIVERS", ROOT / "target/drivers"))
SHADERS = ROOT / "target/shaders"


class Missing(Exception):
    """A compiler that is not there."""


def tool(name):
    """The command of a program, the system's or the one beside Mesa, which runs with its own libraries."""
    if found := shutil.which(name):
        return [found]
    program = DRIVERS / "mesa/usr/bin" / name
    if not program.exists():
        raise Missing(f"there is no {name}; `tools/drivers/fetch.sh mesa` brings it")
    libraries = next(DRIVERS.glob("mesa/usr/lib/*-linux-gnu"))
    loader = next(libraries.glob("ld-linux-*.so.*"))
    return [str(loader), "--library-path", str(libraries), str(program)]


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def version(command, pattern):
    return re.search(pattern, run([*command, "--version"]).stdout.decode())[1]


def refusal(done):
    """The first line of a failed run that says what is wrong; None of any other."""
    text = done.stdout.decode(errors="replace")
    errors = [line.strip() for line in text.splitlines() if "error" in line.lower()]
    return None if done.returncode == 0 else (errors or [f"ends with {done.returncode}: {text.strip()[:200]}"])[0]


def each(judge):
    """Several files at a time, each by a process of its own."""

    def judge_all(paths):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(judge, paths))

    return judge_all


def without_known_flaws(text):
    """SPIR-V as text without two flaws of naga's that drivers do not mind, and at which spirv-val would look no further:
    arrays in workgroup memory have strides (VUID-StandaloneSpirv-None-10684), and where cooperative matrices bring
    Vulkan's memory model, atomics and barriers of the whole device's scope lack a capability. wgpu asks the device for it."""
    text = re.sub("(OpCapability VulkanMemoryModel)$", r"\1\nOpCapability VulkanMemoryModelDeviceScope", text, flags=re.M)
    bare = set(re.findall(r"OpTypePointer Workgroup (%\w+)", text))
    stride = re.compile(r"\s*OpDecorate (%\w+) ArrayStride ")
    return "\n".join(line for line in text.splitlines() if not ((found := stride.match(line)) and found[1] in bare))


def spirv():
    disassemble, assemble, validate = tool("spirv-dis"), tool("spirv-as"), tool("spirv-val")

    def judge(path):
        text = run([*disassemble, "--raw-id", path]).stdout.decode()
        # As naga wrote it: a later version has other rules.
        options = ["--preserve-numeric-ids", "--target-env", "spv1.3", "-o", "-", "-"]
        words = run([*assemble, *options], input=without_known_flaws(text).encode())
        if words.returncode == 0:
            words = run([*validate, "--target-env", "vulkan1.3", "-"], input=words.stdout)
        return refusal(words)

    return "spirv-val " + version(validate, r"v([\d.]+)"), "spv", {}, each(judge)


def hlsl():
    glslang = tool("glslangValidator")
    options = ["-D", "-V", "-S", "comp", "-e", "main", "--target-env", "vulkan1.1", "-o", os.devnull]
    foreign = {"uint64_t": "its HLSL has no 64-bit integers"}
    name = "glslang " + version(glslang, r"Glslang Version: \d+:([\d.]+)")
    return name, "hlsl", foreign, each(lambda path: refusal(run([*glslang, *options, path])))


def wgsl():
    package = DRIVERS / "tint/node_modules/webgpu"
    if not package.exists():
        raise Missing("there is no Tint; `tools/drivers/fetch.sh tint` brings it")
    if not shutil.which("node"):
        raise Missing("there is no node, by which Tint is called")
    tint = ["node", ROOT / "tools/shaders/tint.mjs", package]
    foreign = {
        "enable wgpu_cooperative_matrix": "WebGPU has no cooperative matrices",
        "@coherent": "WebGPU has no memory that workgroups share in a dispatch",
        "u64": "WebGPU has no 64-bit integers",
    }
    name = json.loads((package / "package.json").read_text())["version"]

    def judge(paths):
        return json.loads(subprocess.run([*tint, *paths], stdout=subprocess.PIPE, check=True).stdout)

    return f"Tint (webgpu {name})", "wgsl", foreign, judge


def write_variants():
    shutil.rmtree(SHADERS, ignore_errors=True)
    SHADERS.mkdir(parents=True)
    test = ["cargo", "test", "--quiet", "--test", "library", "every_variant_is_valid"]
    subprocess.run(test, cwd=ROOT, env={**os.environ, "INSTRUCTBLIP_TEST_SHADERS": SHADERS}, check=True)


def judged(name, ending, foreign, judge):
    """Prints a compiler's verdicts; gives the number of refusals."""
    paths, excluded = [], defaultdict(list)
    for path in sorted(SHADERS.glob(f"*.{ending}")):
        code = re.sub("//.*", "", path.read_text()) if foreign else ""
        reason = next((why for word, why in foreign.items() if word in code), None)
        (excluded[reason] if reason else paths).append(path)
    refused = [(path, why) for path, why in zip(paths, judge(paths), strict=True) if why]
    print(f"{name}: {len(paths) - len(refused)} of {len(paths)} variants accepted")
    for why, kept_out in excluded.items():
        kernels = sorted({path.name.split(".")[0] for path in kept_out})
        print(f"  not judged, {len(kept_out)}: {why}: {', '.join(kernels)}")
    for path, why in refused[:20]:
        print(f"  REFUSED {path.relative_to(ROOT)}: {why}")
    return len(refused)


def main():
    write_variants()
    refusals = []
    for compiler in [spirv, hlsl, wgsl]:
        try:
            refusals.append(judged(*compiler()))
        except Missing as e:
            print(f"{compiler.__name__} NOT JUDGED: {e}")
    sys.exit(0 if refusals and sum(refusals) == 0 else 1)


main()
