#!/usr/bin/env python3
"""Answers millions of rows with Ray Data: each actor owns an `instructblip worker` and a GPU.

    driver.py rows.jsonl answers/ --actors 2 -- --model instructblip-vicuna-7b --weights q8

INPUT is a .jsonl or .parquet file or a folder of pictures, OUTPUT a folder. What follows -- goes to the workers.
"""

import argparse
import base64
import collections
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading

import pyarrow
import ray

PICTURES = ["png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff"]
DEATHS = 2  # of a worker over one row, after which the row is marked failed
SAID = {2, 3, 4, 5, 6, 7, 75}  # exit codes by which a worker says that it cannot work here at all


class Answerer:
    """The actor: batches of rows in, as many answers out, by a process that is begun again when it has died."""

    def __init__(self, command, inflight, numbers, adapters):
        env = {"WGPU_ADAPTER_NAME": adapters[ray.get(numbers.next.remote()) % len(adapters)]} if adapters else {}
        self.command, self.inflight, self.process = command, inflight, None
        self.pipes = {"env": {**os.environ, **env}, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

    def ask(self, rows):
        """Yields (key, answer) for those of `rows`, a dict, that are answered before the process dies."""
        if self.process is None:
            self.process = subprocess.Popen(self.command, **self.pipes)
        threading.Thread(target=write, args=(self.process.stdin, rows), daemon=True).start()
        for _ in rows:
            line = self.process.stdout.readline()
            if not line.endswith(b"\n"):
                code, self.process = self.process.wait(), None
                if code in SAID:
                    raise RuntimeError(f"the worker ended with exit code {code}: {' '.join(self.command)}")
                return
            yield json.loads(line)["id"], json.loads(line)

    def __call__(self, batch):
        rows, ids, answers = {}, {}, {}
        for key, row in enumerate(batch.to_pylist()):
            try:
                rows[key], ids[key] = read(row)
            except ValueError as problem:
                ids[key], answers[key] = str(row.get("text", ""))[:80], failed("row", f"is no row: {problem}")
        deaths = collections.Counter()
        while rows.keys() - answers.keys():
            left = {key: row for key, row in rows.items() if key not in answers}
            answers.update(self.ask(left))
            # Those that were in work when it died are asked one by one, so that the one that killed it is found.
            for key in [key for key in left if key not in answers][: self.inflight]:
                while key not in answers:
                    answers.update(self.ask({key: rows[key]}))
                    deaths[key] += key not in answers
                    if deaths[key] == DEATHS:
                        answers[key] = failed("crashed", f"the worker died {DEATHS} times over this row")
            if sum(count == DEATHS for count in deaths.values()) > max(3, len(rows) // 4):
                raise RuntimeError("the worker dies whatever it is asked")
        return table(ids, answers)


@ray.remote(num_cpus=0)
class Numbers:
    """Gives each actor a number of its own."""
    numbers = itertools.count()

    def next(self):
        return next(self.numbers)


def write(pipe, rows):
    with contextlib.suppress(OSError):  # the reader sees that the process has died
        pipe.write(b"".join(json.dumps({**row, "id": key}).encode() + b"\n" for key, row in rows.items()))
        pipe.flush()


def failed(code, message):
    return {"ok": False, "error": {"code": code, "message": message}, "retry": False}


def read(row):
    """A row as the worker takes it, and its id."""
    if row.keys() == {"text"}:  # a line of JSON
        row = json.loads(row["text"])
        if not isinstance(row, dict):
            raise ValueError("is not a JSON object")
    elif row.keys() == {"bytes", "path"}:  # a picture file
        row = {"id": row["path"], "image": row["bytes"]}
    image = row.get("image")
    if isinstance(image, dict) and "bytes" in image:  # as the datasets library stores pictures
        image = image["bytes"] or image["path"]
    if isinstance(image, bytes):
        image = {"bytes_b64": base64.b64encode(image).decode()}
    return {**row, "image": image}, row.get("id", image if isinstance(image, str) else "")


def table(ids, answers):
    """Columns of answers; `answer` has the whole line."""
    rows = []
    for key in sorted(ids):
        answer = {**answers[key], "id": ids[key]}
        error, retry = answer.get("error", {}), answer.get("retry", False)
        rows.append({"id": str(ids[key]), "ok": answer["ok"], "text": answer.get("text"), "retry": retry,
                     "error": error.get("code"), "message": error.get("message"), "answer": json.dumps(answer)})
    kinds = {"ok": pyarrow.bool_(), "retry": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in rows[0]])
    return pyarrow.Table.from_pylist(rows, schema=schema)


def main():
    at = [*sys.argv, "--"].index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("input"), option("output")
    option("--jsonl", action="store_true", help="write JSON lines instead of Parquet")
    option("--actors", type=int, default=1, help="workers, one for each GPU")
    option("--gpus-per-actor", type=float, default=0, help="GPUs that Ray sets aside for each actor")
    option("--adapters", default="", help="names of GPUs (WGPU_ADAPTER_NAME), with commas between")
    option("--batch", type=int, default=256, help="rows that Ray gives an actor at once")
    option("--inflight", type=int, default=64, help="rows that a worker has at once")
    option("--program", default="instructblip")
    a = parser.parse_args(sys.argv[1:at])
    command = [a.program, "worker", "--quiet", "--inflight", str(a.inflight), *sys.argv[at + 1 :]]
    if a.input.endswith(".parquet"):
        rows = ray.data.read_parquet(a.input)
    elif a.input.endswith(".jsonl"):
        rows = ray.data.read_text(a.input)
        command += ["--folder", os.path.dirname(os.path.abspath(a.input))] if os.path.isfile(a.input) else []
    else:
        rows = ray.data.read_binary_files(a.input, include_paths=True, file_extensions=PICTURES)
    adapters = list(filter(None, a.adapters.split(",")))
    answers = rows.repartition(target_num_rows_per_block=a.batch).map_batches(
        Answerer, fn_constructor_args=(command, a.inflight, Numbers.remote(), adapters),
        batch_size=a.batch, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=a.actors),
        num_cpus=0.5, num_gpus=a.gpus_per_actor or None)
    (answers.write_json if a.jsonl else answers.write_parquet)(a.output)


main()
