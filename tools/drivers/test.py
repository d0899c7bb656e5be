#!/usr/bin/env python3
"""Runs what shows that kernels are right under each Vulkan driver for the CPU: self-test, the tests of every op, the
stages of tiny checkpoints against transformers, and the same answer with every form of the kernels.

    test.py [DRIVER...]      the system's llvmpipe and those that fetch.sh brought; or these, which must be there

Each driver gets a line with its counts and its time; then comes a table of the kernels that were executed. Logs and the
self-test's reports are in target/driver-tests. Ends with 1 if anything failed."""

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
TESTS = ["ops::", "stages::", "forms::", "matrix_check::", "selftest_reaches_every_kernel"]


def is_there(driver):
    """Says why where it is not."""
    done = subprocess.run([RUN, driver, shutil.which("true")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{driver}: NOT RUN: {done.stderr.strip()}", flush=True)
    return done.returncode == 0


def host():
    done = subprocess.run(["rustc", "-vV"], stdout=subprocess.PIPE, text=True, check=True)
    return re.search("host: (.*)", done.stdout)[1].upper().replace("-", "_")


def build():
    """Gives the path of the program."""
    cargo = ["cargo", "test", *PROGRAMS, "--no-run", "--message-format", "json-render-diagnostics"]
    done = subprocess.run(cargo, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    made = map(json.loads, done.stdout.splitlines())
    return next(one["executable"] for one in made if one.get("executable") and one["target"]["kind"] == ["bin"])


def self_test(driver, program):
    """The report, or None where there is none."""
    done = subprocess.run([RUN, driver, program, "selftest", "--json", "--quiet"], cwd=ROOT, capture_output=True)
    (REPORTS / f"{driver}.json").write_bytes(done.stdout)
    if not done.stdout:
        print(f"{driver}: self-test ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
        return None
    return json.loads(done.stdout)


def run_tests(driver):
    """Passed, failed, and what the tests say that they did not run."""
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
    return passed, failed or int(code != 0), sorted(set(re.findall(r"^NOT RUN: (.*)", text, re.MULTILINE)))


def try_driver(driver, program):
    """The self-test's report, and whether all was right."""
    started = time.monotonic()
    report = self_test(driver, program)
    between = time.monotonic()
    passed, failed, not_run = run_tests(driver)
    ended = time.monotonic()
    if report:
        for failure in report["failures"]:
            print(f"{driver}: FAILED self-test: {failure['kernel']}, {failure['form']}, {failure['shape']}")
        adapter = f"{report['adapter']['name']}, {report['adapter']['driver']}"
        print(f"{driver} ({adapter}):")
        print(f"  self-test {report['passed']} passed, {report['failed']} failed in {between - started:.0f} s")
    print(f"  tests {passed} passed, {failed} failed in {ended - between:.0f} s")
    for reason in not_run:
        print(f"  not run: {reason}")
    sys.stdout.flush()
    return report, bool(report) and report["failed"] == failed == 0 and passed > 0


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
    nowhere = {form: why for form, why in reasons.items() if not any(k.startswith(form) for k in executed)}
    for form, why in nowhere.items():
        print(f"NO DRIVER HERE RUNS {form}: {'; '.join(why)}")
    print(f"\nexecuted on some driver: {len(executed)} kernels; on none: {len(nowhere)} forms")


def main():
    wanted = sys.argv[1:] or DRIVERS
    there = [driver for driver in wanted if is_there(driver)]
    if not there or (sys.argv[1:] and there != wanted):
        sys.exit(1)
    REPORTS.mkdir(parents=True, exist_ok=True)
    program = build()
    tried = {driver: try_driver(driver, program) for driver in there}
    reports = {driver: report for driver, (report, _) in tried.items() if report}
    if reports:
        print_table(reports)
    wrong = [driver for driver, (_, right) in tried.items() if not right]
    print(f"{len(tried) - len(wrong)} of {len(tried)} drivers all right" + "".join(f"; {driver} is not" for driver in wrong))
    sys.exit(1 if wrong else 0)


main()
