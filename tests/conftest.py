"""Settings that every test runs under."""

from __future__ import annotations

import os

import hypothesis
import torch

# a shared machine is at times slow, and a slow example is not a wrong one
hypothesis.settings.register_profile("edakari", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("edakari")

torch.set_num_threads(1)
