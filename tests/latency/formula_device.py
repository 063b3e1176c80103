"""A device of tests: it computes times from the multiply-accumulates in the files, so that they are known exactly.

python formula_device.py FOLDER [what goes wrong]
"""

import json
import math
import sys
import time
from pathlib import Path

import onnx

POSITIONS = 64
"""Positions of every layer: the test's networks change no size of their images of 8 by 8."""


def macs(path: Path) -> float:
    proto = onnx.load(path, load_external_data=False)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    timed = [node for node in proto.graph.node if not node.name.startswith(("producer", "shortcut", "consumer"))]
    found = 0.0
    for node in timed:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weights = [math.prod(shapes[name]) for name in node.input if len(shapes.get(name, ())) > 1]
            found += sum(weights) * (POSITIONS if node.op_type == "Conv" else 1)
    return found


def main() -> None:
    folder, wrong = Path(sys.argv[1]), sys.argv[2:]
    files = json.loads((folder / "manifest.json").read_text())["files"]
    seen = Path(wrong[1]) if len(wrong) > 1 else None
    late = seen is None or len(seen.read_text().splitlines() if seen.exists() else []) >= int(wrong[2])
    if seen is not None:
        with seen.open("a") as log:
            log.write(f"{len(files)} {files[0]['name']}\n")
    wrong = wrong[0] if wrong and late else ""
    if wrong == "hangs":
        time.sleep(60)
    times = {file["name"]: 1e-6 * macs(folder / file["file"]) for file in files}
    if wrong == "nonsense":
        print("Welcome to the device.\n0.3 ms")
        return
    if wrong == "negative":
        times = dict.fromkeys(times, -1.0)
    if wrong == "text":
        times = dict.fromkeys(times, "fast")
    if wrong == "unknown":
        times["other"] = 1.0
    if wrong in ("fewer", "fails"):
        times.pop(files[-1]["name"])
    device = {"processor": "another" if wrong == "other device" else "formula"}
    print(json.dumps({"times": times, "device": device, "versions": {"formula": "1"}}), flush=True)
    if wrong == "fails":
        sys.exit("ssh: connect to host pi4 port 22: No route to host")


main()
