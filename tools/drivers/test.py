#!/usr/bin/env python3
"""Runs what shows that kernels are right under each Vulkan driver for the CPU: self-test, the tests of every op, the
stages of tiny checkpoints against transformers, and the same answer with every form of the kernels.

    test.py [DRIVER...]      the system's llvmpipe and those that fetch.sh brought; or these, which must be there

Each driver gets a line with its counts and its time; then comes a table of the kernels that were executed. Logs are in
target/driver-tests. Ends with 1 if anything failed."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = "tools/drivers/run.sh"
REPORTS = ROOT / "target/driver-tests"
DRIVERS = ["system-lvp", "lvp", "swiftshader"]
PROGRAMS = ["--lib", "--test", "library", "--test", "program"]
# Inside the library, `matrix_check` alone is about what a driver computes.
TESTS = ["ops::", "stages::", "forms::", "matrices::", "matrix_check::", "selftest_reaches_every_kernel_in_every_form"]


def is_there(driver):
    """Says why where it is not."""
    done = subprocess.run([RUN, driver, shutil.which("true")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{driver}: NOT RUN: {done.stderr.strip()}", flush=True)
    return done.returncode == 0


def host():
    done = subprocess.run(["rustc", "-vV"], stdout=subprocess.PIPE, text=True, check=True)
    return re.search("host: (.*)", done.stdout)[1].upper().replace("-", "_")


def run_tests(driver):
    """How many passed and failed, and what they printed."""
    runner = {f"CARGO_TARGET_{host()}_RUNNER": f"{RUN} {driver}", "INSTRUCTBLIP_TEST_DRIVER": driver}
    cargo = ["cargo", "test", "--no-fail-fast", *PROGRAMS, "--", "--show-output", *TESTS]
    log = REPORTS / f"{driver}.log"
    with log.open("w") as out:
        code = subprocess.run(cargo, cwd=ROOT, env={**os.environ, **runner}, stdout=out, stderr=out).returncode
    text = log.read_text(errors="replace")
    results = re.findall(r"test result: \w+\. (\d+) passed; (\d+) failed", text)
    passed, failed = (sum(int(result[i]) for result in results) for i in (0, 1))
    for name in re.findall(r"^test (\S+) \.\.\. FAILED", text, re.MULTILINE):
        print(f"{driver}: FAILED {name}, see {log.relative_to(ROOT)}")
    # A program that crashed has no result.
    return passed, failed or int(code != 0), text


def try_driver(driver):
    """The self-test's report, and whether all was right."""
    started = time.monotonic()
    passed, failed, text = run_tests(driver)
    print(f"{driver}: {passed} tests passed, {failed} failed in {time.monotonic() - started:.0f} s")
    printed = re.search(r'^{"adapter".*', text, re.MULTILINE)
    report = json.loads(printed[0]) if printed else None
    if report:
        for failure in report["failures"]:
            why = failure["failure"] or f"off by {failure['error']}"
            print(f"  FAILED {failure['kernel']}, {failure['form']}, {failure['shape']}: {why}")
        seconds = report["ms"] / 1000
        print(f"  {report['adapter']['name']}, {report['adapter']['driver']}")
        print(f"  of them the self-test: {report['passed']} cases right, {report['failed']} wrong in {seconds:.0f} s")
    for reason in sorted(set(re.findall(r"^NOT RUN: (.*)", text, re.MULTILINE))):
        print(f"  not run: {reason}")
    sys.stdout.flush()
    return report, failed == 0 and report is not None


def print_table(reports):
    """Cases of the self-test by kernel and driver, and the reasons of those that did not run."""
    executed = {}
    for driver, report in reports.items():
        for case in report["cases"]:
            for kernel in case["kernels"]:
                cases = executed.setdefault(kernel, {})
                cases[driver] = cases.get(driver, 0) + 1
    width = max(map(len, executed))
    print("\ncases of the self-test".ljust(width + 1), *(f"{driver:>12}" for driver in reports))
    for kernel, cases in sorted(executed.items()):
        print(kernel.ljust(width), *(f"{cases.get(driver, '-'):>12}" for driver in reports))
    print("kernels".ljust(width), *(f"{len(report['kernels']):>12}" for report in reports.values()))
    reasons = {}
    for driver, report in reports.items():
        for form in report["not_run"]:
            reasons.setdefault(form["form"], []).append(f"{driver}: {form['why']}")
    nowhere = {form: why for form, why in reasons.items() if not {form, f"{form}_q8"} & executed.keys()}
    for form, why in nowhere.items():
        print(f"NO DRIVER HERE RUNS {form}: {'; '.join(why)}")
    print(f"\nexecuted on some driver: {len(executed)} kernels; on none: {len(nowhere)} forms")


def main():
    wanted = sys.argv[1:] or DRIVERS
    there = [driver for driver in wanted if is_there(driver)]
    if not there or (sys.argv[1:] and there != wanted):
        sys.exit(1)
    REPORTS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cargo", "test", *PROGRAMS, "--no-run"], cwd=ROOT, check=True)
    tried = {driver: try_driver(driver) for driver in there}
    reports = {driver: report for driver, (report, _) in tried.items() if report}
    if reports:
        print_table(reports)
    wrong = [driver for driver, (_, right) in tried.items() if not right]
    told = "".join(f"; {driver} is not" for driver in wrong)
    print(f"{len(tried) - len(wrong)} of {len(tried)} drivers all right{told}")
    sys.exit(1 if wrong else 0)


main()
