"""onnxruntime-webgpu peer: the same WebGPU provider as onnxruntime-web, natively on Dawn.

    python onnxruntime_webgpu.py MxNxK ...

Prints one line per figure: `what shape unit median runs`. A call is `session.run`, so the
upload of the left operand and the read-back of the result are inside the time.
"""

import os
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SECONDS = float(os.environ.get("PEER_SECONDS", "4"))


def session_for(m, n, k, weight):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "w"], ["c"])],
        "matmul",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [m, n])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Without this a node the provider rejects would quietly run on the CPU.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["WebGpuExecutionProvider"])
    except Exception as error:
        sys.exit(f"onnxruntime-webgpu: no session on the WebGPU provider: {error.__cause__ or error}")
    assert session.get_providers()[0] == "WebGpuExecutionProvider", session.get_providers()
    return session


def main():
    random = np.random.default_rng(7)
    for shape in sys.argv[1:]:
        m, n, k = (int(s) for s in shape.split("x"))
        a = (random.random((m, k), dtype=np.float32) - 0.5).astype(np.float32)
        w = (random.random((k, n), dtype=np.float32) - 0.5).astype(np.float32)
        session = session_for(m, n, k, w)
        got = session.run(None, {"a": a})[0]
        assert got.shape == (m, n), got.shape
        worst = 0.0
        for i in range(64):
            row, column = (i * 7919) % m, (i * 104729) % n
            want = float(a[row].astype(np.float64) @ w[:, column].astype(np.float64))
            worst = max(worst, abs(float(got[row, column]) - want))
        assert worst < 1e-3, f"{shape}: wrong result, error {worst}"

        session.run(None, {"a": a})
        times = []
        begin = time.perf_counter()
        while len(times) < 5 or (len(times) < 30 and time.perf_counter() - begin < SECONDS):
            start = time.perf_counter()
            session.run(None, {"a": a})
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
        unit, figure = ("GB/s", 4 * n * k) if m == 1 else ("GFLOP/s", 2 * m * n * k)
        print(f"{shape}: {1000 * seconds:.2f} ms, largest error {worst:.1e}", file=sys.stderr)
        print(f"matmul+copies {shape} {unit} {figure / seconds / 1e9:.3f} {len(times)}", flush=True)
        del session


main()
