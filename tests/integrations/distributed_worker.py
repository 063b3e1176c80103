"""One process of a training by timm's parts; writes its weights and the figures of its epochs."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path

from safetensors.torch import save_file

from edakari.core.processes import Processes
from edakari.integrations import timm
from edakari.pipeline import processes
from edakari.train import FitSettings, fit_by
from tests.train.problem import SCHEDULE, batches, network, objective


def main(folder: str) -> None:
    processes.started(cpu=True)
    data, model = batches(), network(norm=False)
    data.pixels = dc.replace(data.pixels, pad=0, flip=False)
    history = fit_by(timm.fit())(model, objective, data, SCHEDULE, settings=FitSettings(seed=1))
    here = Processes.here()
    name = f"{here.world}-{here.rank}"
    save_file(dict(model.state_dict()), Path(folder) / f"{name}.safetensors")
    (Path(folder) / f"{name}.json").write_text(json.dumps(history.epochs), encoding="utf-8")
