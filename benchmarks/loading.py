"""Images a second and core, and lists of files, against other loaders, in one run.

    python benchmarks/loading.py --output benchmarks/results/loading.json

The images are JPEG files made for this, in a temporary folder. Each loader gives batches of the same transforms on one
thread without workers, alternately; the time is CPU time of this process. Lists of files are read in processes of their
own, each of which then forks a worker that looks at every name, as a worker of an epoch does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import environment
from PIL import Image
from records import write_record
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

SIDE, BATCH, SCALE = 224, 64, (0.35, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LISTERS = ("edakari", "torchvision ImageFolder")
Passes = Callable[[bool], Iterable[Any]]
"""From whether the batches are for training to one pass over them."""


def write_photographs(folder: Path, count: int, width: int, height: int) -> None:
    """Smooth noise with grain: files as large as photographs of that size."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = (smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        for split in ("train", "val"):
            path = folder / split / f"class{number % 4}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=90)


def edakari_passes(folder: Path) -> Passes:
    from edakari.tasks import DataSettings, image_task

    task = image_task(DataSettings(source=str(folder), image_size=SIDE, workers=0, batch_size=BATCH))
    return lambda training: task.batches("train" if training else "val")


def torchvision_passes(folder: Path) -> Passes:
    """ImageFolder with the usual transforms, image by image on Pillow's images."""
    from torchvision import transforms

    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train = [transforms.RandomResizedCrop(SIDE, SCALE), transforms.RandomHorizontalFlip(), *last]
    evaluation = [transforms.Resize(256), transforms.CenterCrop(SIDE), *last]

    def passes(training: bool) -> Iterable[Any]:
        steps = transforms.Compose(train if training else evaluation)
        dataset = ImageFolder(str(folder / ("train" if training else "val")), steps)
        return DataLoader(dataset, BATCH, shuffle=training)

    return passes


class DecodedFolder(Dataset[Any]):
    """ImageFolder decoded by torchvision, with transforms v2 on bytes."""

    def __init__(self, folder: Path, steps: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.samples, self.steps = ImageFolder(str(folder)).samples, steps

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        path, label = self.samples[index]
        return self.steps(decode_jpeg(read_file(path), mode=ImageReadMode.RGB)), label


def decoder_passes(folder: Path) -> Passes:
    """Torchvision's decoder and transforms v2; batches of bytes, normalised at once."""
    from torchvision.transforms import v2

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    train = v2.Compose([v2.RandomResizedCrop(SIDE, SCALE, antialias=True), v2.RandomHorizontalFlip()])
    evaluation = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(SIDE)])

    def passes(training: bool) -> Iterator[Any]:
        dataset = DecodedFolder(folder / ("train" if training else "val"), train if training else evaluation)
        for images, labels in DataLoader(dataset, BATCH, shuffle=training):
            yield images.float().sub_(mean).div_(std), labels

    return passes


def timm_passes(folder: Path) -> Passes:
    """The loader of timm, which normalises batches, for the CPU."""
    from timm.data import create_loader

    make: Any = create_loader

    def passes(training: bool) -> Iterable[Any]:
        dataset: Any = ImageFolder(str(folder / ("train" if training else "val")))
        own = {"scale": SCALE, "hflip": 0.5, "color_jitter": None} if training else {"crop_pct": 0.875}
        return make(
            dataset, (3, SIDE, SIDE), BATCH, is_training=training, interpolation="bilinear", num_workers=0,
            device=torch.device("cpu"), pin_memory=False, persistent_workers=False, **own,
        )  # fmt: skip

    return passes


LOADERS: dict[str, Callable[[Path], Passes]] = {
    "edakari": edakari_passes,
    "torchvision ImageFolder": torchvision_passes,
    "torchvision decode_jpeg": decoder_passes,
    "timm create_loader": timm_passes,
}


def rates(folder: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Images per second of CPU time, of each loader and round; a round more is not counted."""
    loaders = {name: make(folder) for name, make in LOADERS.items()}
    found: dict[str, dict[str, list[float]]] = {}
    for training in (True, False):
        kind = found.setdefault("train" if training else "evaluation", {name: [] for name in loaders})
        for number in range(rounds + 1):
            for name, passes in loaders.items():
                start = time.process_time()
                images = sum(len(batch[0]) for batch in passes(training))
                rate = images / (time.process_time() - start)
                if number:
                    kind[name].append(rate)
    return found


def write_names(folder: Path, count: int, classes: int) -> None:
    """Empty files with names as long as ImageNet's, unless the folder is there."""
    each, more = divmod(count, classes)
    for label in range(0 if folder.exists() else classes):
        inside = folder / f"n{label:08d}"
        inside.mkdir(parents=True)
        for number in range(each + (label < more)):
            (inside / f"n{label:08d}_{number}.JPEG").touch()


def private_mb() -> float:
    """Memory of this process that it shares with no other, in megabytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def listed(lister: str, folder: Path) -> dict[str, float]:
    """Cost of a list of files in this process and in a forked worker."""
    from edakari.tasks.sources import from_folder

    # both are imported, whichever is measured, and know no file yet
    make: dict[str, Callable[[], Any]] = {
        LISTERS[0]: lambda: from_folder(folder),
        LISTERS[1]: lambda: ImageFolder(folder),
    }
    for _ in folder.glob("*/*"):
        break
    before, start = private_mb(), time.process_time()
    found = make[lister]()
    seconds, added = time.process_time() - start, private_mb() - before
    count = len(found.labels) if lister == LISTERS[0] else len(found.samples)
    worker = _in_fork(lambda: _touched(found, lister, count))
    start = time.process_time()
    content = bytes(ForkingPickler.dumps(found))
    pickled = time.process_time() - start
    received = _in_fork(lambda: _unpickled(content))
    return {
        "files": count, "cpu_s": seconds, "added_mb": added, "worker_added_mb": worker["mb"],
        "pickle_s": pickled, "pickle_mb": len(content) / 2**20, "unpickle_s": received["s"],
    }  # fmt: skip


def _touched(found: Any, lister: str, count: int) -> dict[str, float]:
    """Look at every name, in the order of an epoch."""
    order = np.random.default_rng(0).permutation(count)
    before = private_mb()
    for index in order.tolist():
        found.names.text(index) if lister == LISTERS[0] else found.samples[index]
    return {"mb": private_mb() - before}


def _unpickled(content: bytes) -> dict[str, float]:
    start = time.process_time()
    ForkingPickler.loads(content)
    return {"s": time.process_time() - start}


def _in_fork(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a function returns in a forked process."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    result: dict[str, float] = json.loads(content)
    return result


def lists(folder: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Costs of lists of files by lister, in processes of their own, alternately."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LISTERS}
    for _ in range(rounds):
        for name in LISTERS:
            command = [sys.executable, __file__, "--list", name, "--names", str(folder)]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(text.splitlines()[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192, help="photographs; 0 measures lists alone")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=200_000, help="empty files to list; 0 measures images alone")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--names", type=Path, help="folder of the files to list; made and left there")
    parser.add_argument("--list", choices=LISTERS, help="list the files of --names only, and print the cost")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.list:
        print(json.dumps(listed(arguments.list, arguments.names)))
        return
    here = environment(["python", "benchmarks/loading.py", *_plain(sys.argv[1:])])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        photographs, names = Path(temporary) / "photographs", arguments.names or Path(temporary) / "names"
        if arguments.images:
            write_photographs(photographs, arguments.images, *arguments.size)
            size = statistics.mean(path.stat().st_size for path in photographs.rglob("*.jpg"))
            images = {"count": arguments.images, "size": list(arguments.size), "mean_bytes": size, "batch": BATCH}
            found["rates"] = {"environment": here, **images, "by_split": rates(photographs, arguments.rounds)}
        if arguments.files:
            write_names(names, arguments.files, arguments.classes)
            found["lists"] = {"environment": here, "by_lister": lists(names, arguments.rounds)}
    print(json.dumps(found))
    if arguments.output:
        known = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        write_record(arguments.output, {**known, **found})


def _plain(arguments: list[str]) -> list[str]:
    """The arguments without folders of this machine."""
    return [Path(each).name if os.sep in each and not each.startswith("benchmarks") else each for each in arguments]


if __name__ == "__main__":
    main()
