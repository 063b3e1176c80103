"""Runs an exported network on images: `python infer.py IMAGE ...`. It needs onnxruntime, numpy and Pillow alone.

model.json beside this file says how an image becomes the network's input, and what the network answers.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepared(path: str, how: dict[str, Any]) -> Any:
    """Make the network's input of an image, float32 [1, channels, height, width]."""
    image = ImageOps.exif_transpose(Image.open(path))
    if "resize" not in how or image.mode[0] in "IF":
        why = "the image has more than 8 bits" if "resize" in how else "model.json does not say how to prepare images"
        raise SystemExit(f"{path}: {why}; prepare it as the training did, and run the network by onnxruntime")
    image.info.pop("transparency", None)
    image = image.convert("RGB")
    if how["channels"] == 1:
        mean = Image.fromarray(np.asarray(image, np.float32).mean(2))
        image = image.convert("L") if how["grey"] == "luma" else mean
    (high, wide), (height, width) = how["to"], how["crop"]
    scales = high / image.height, wide / image.width
    if how["resize"] in ("cover", "letterbox"):
        scale = max(scales) if how["resize"] == "cover" else min(scales)
        high, wide = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    elif how["resize"] == "shorter_side":
        short, long = min(high, wide), int(min(high, wide) * max(image.size) / min(image.size))
        high, wide = (short, long) if image.height <= image.width else (long, short)
    resized = image.resize((wide, high), Image.Resampling[how["interpolation"].upper()])
    canvas = Image.new(resized.mode, (width, height), (how["fill"],) * 3 if resized.mode == "RGB" else how["fill"])
    corner = [
        -round((old - new) / 2) if old > new else (new - old) // 2 for old, new in ((wide, width), (high, height))
    ]
    canvas.paste(resized, (corner[0], corner[1]))
    pixels = np.asarray(canvas, np.float32).reshape(height, width, -1) * np.float32(how["scale"])
    normalised = (pixels - np.asarray(how["mean"], np.float32)) / np.asarray(how["std"], np.float32)
    return normalised.transpose(2, 0, 1)[None]


def answered(outputs: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Return the five most probable classes, the classes above one half, or else shape and range of each output."""
    if about["answers"] not in ("class", "classes"):
        return {name: [list(each.shape), float(each.min()), float(each.max())] for name, each in outputs.items()}
    logits = next(iter(outputs.values()))[0].astype(np.float64)
    several = about["answers"] == "classes"
    shares = (
        1 / (1 + np.exp(-logits)) if several else np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    )
    best = [index for index in np.argsort(-shares) if not several or shares[index] >= 0.5]
    return {about["classes"][index]: round(float(shares[index]), 4) for index in best[: None if several else 5]}


def main(*images: str) -> None:
    """Print what the network answers for each image, as one line of JSON."""
    here = Path(__file__).parent
    about = json.loads((here / "model.json").read_text(encoding="utf-8"))
    runtime: Any = onnxruntime
    session = runtime.InferenceSession(str(here / "pruned.onnx"), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    for path in images:
        found = session.run(None, {session.get_inputs()[0].name: prepared(path, about["preprocessing"])})
        said = {path: answered(dict(zip(names, found, strict=True)), about)}
        sys.stdout.write(json.dumps(said, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
