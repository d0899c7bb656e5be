#!/usr/bin/env python3
"""Runs the driver over 2,000 rows with two actors, kills one worker, and has one row that kills any.

    test.py PROGRAM
"""

import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pyarrow.parquet as parquet

HERE = pathlib.Path(__file__).resolve().parent
SAMPLES = HERE.parent.parent / "tests/shapes/samples"
# Stands in for the program: hands rows on to it, and dies with it over a row of poison.
WRAPPER = """#!{python}
import os, signal, subprocess, sys, threading
worker = subprocess.Popen([{program!r}, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
open(os.path.join({folder!r}, "pid-%d" % os.getpid()), "w").write(str(worker.pid))
def give():
    for line in sys.stdin.buffer:
        if b"poison" in line:
            worker.send_signal(signal.SIGKILL)
            return
        worker.stdin.write(line)
        worker.stdin.flush()
    worker.stdin.close()
threading.Thread(target=give, daemon=True).start()
for line in worker.stdout:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
sys.stdout.flush()
code = worker.wait()
os.kill(os.getpid(), -code) if code < 0 else os._exit(code)
"""


def drive(program, source, target, *flags):
    command = [sys.executable, str(HERE / "driver.py"), str(source), str(target), "--program", str(program), *flags]
    return subprocess.Popen([*command, "--", "--max-new-tokens", "3"])


def read(folder):
    return [row for file in sorted(folder.glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]


def main():
    program, rows = os.path.abspath(sys.argv[1]), 2000
    folder = pathlib.Path(tempfile.mkdtemp(prefix="instructblip-ray-"))
    wrapper = folder / "program"
    wrapper.write_text(WRAPPER.format(python=sys.executable, program=program, folder=str(folder)))
    wrapper.chmod(0o755)
    lines = [{"id": f"row {i}", "image": str(SAMPLES / f"{i % 12:02}.png"), "prompt": "A short image description."}
             for i in range(rows)]
    lines[1234]["prompt"] = "poison"
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = time.time()
    driver = drive(wrapper, folder / "rows.jsonl", folder / "answers", "--actors", "2", "--batch", "200")
    while len(list(folder.glob("pid-*"))) < 2:
        assert driver.poll() is None, "the driver ended"
        time.sleep(0.1)
    time.sleep(8)
    os.kill(int(sorted(folder.glob("pid-*"))[0].read_text()), signal.SIGKILL)
    killed = time.time() - start
    assert driver.wait() == 0, "the driver failed"
    answers = read(folder / "answers")
    ids, failed = {row["id"] for row in answers}, [row["id"] for row in answers if not row["ok"]]
    assert len(answers) == len(ids) == rows, f"{len(answers)} rows with {len(ids)} ids"
    assert failed == ["row 1234"], f"failed: {failed}"
    workers = len(list(folder.glob("pid-*")))
    assert workers >= 4, f"{workers} workers only: none was killed in time"
    print(f"{rows} rows by 2 actors in {time.time() - start:.0f} s, a worker killed after {killed:.0f} s and three by "
          f"one row ({workers} workers in all): none missing or doubled, 1 marked failed")

    # The other ways in and out: Parquet with bytes, and a folder of pictures.
    import pyarrow
    files = sorted(SAMPLES.glob("*.png"))
    table = {"id": [file.name for file in files], "image": [file.read_bytes() for file in files]}
    parquet.write_table(pyarrow.table(table), folder / "rows.parquet")
    assert drive(program, folder / "rows.parquet", folder / "lines", "--jsonl").wait() == 0
    written = [json.loads(line) for file in (folder / "lines").glob("*.json*") for line in file.read_text().splitlines()]
    assert drive(program, SAMPLES, folder / "pictures").wait() == 0
    pictures = read(folder / "pictures")
    texts = {pathlib.Path(row["id"]).name: row["text"] for row in pictures}
    assert texts == {row["id"]: row["text"] for row in written} and len(texts) == len(files), (texts, written)
    encoded = base64.b64encode(files[0].read_bytes()).decode()
    assert encoded not in json.dumps(written), "answers hold no pictures"
    print(f"{len(files)} pictures from Parquet to JSON lines and from a folder to Parquet: the same answers")


if __name__ == "__main__":
    main()
