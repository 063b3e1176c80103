"""How `fit` runs a training, beside its schedule."""

from __future__ import annotations

from pathlib import Path

from edakari.core.memory_format import MemoryFormat
from edakari.core.settings import NonNegative, Seed, Whole, settings
from edakari.train.compiling import Compile

__all__ = ["FitSettings"]


@settings
class FitSettings:
    """How to run a training.

    Only `seed`, `device` and `sync_bn` affect the result; `memory_format`, `tf32` and `compile` affect its rounding.

    Args:
        folder: folder for the checkpoint and the history; None writes neither.
        seed: seed of all random numbers.
        device: "cpu" never uses an accelerator; "auto" uses the device that accelerate finds.
        checkpoint_seconds: seconds between checkpoints within an epoch; 0 writes one only after each epoch.
        checkpoint_steps: optimizer steps between checkpoints; 0 goes by time only.
        progress: show a progress bar if there is a terminal.
        title: text before the progress bar.
        unused_parameters: some trained parameters may not take part in a step; matters only with several processes.
        memory_format: memory format of the network while it is trained; None leaves it as it is.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them, in networks of
            timm and transformers: less memory, more time.
        sync_bn: take the statistics of batch norms over the batch parts of all processes, by torch's `SyncBatchNorm`,
            which needs a GPU for each process; the network keeps its own batch norms. One process does so anyway.
        tf32: use TF32 for matrix products of float32 on a GPU that has it.
        compile: mode in which `torch.compile` compiles the network: "default", or "reduce-overhead", which adds CUDA
            graphs; "none" does not compile. If the first step fails so, the training continues without, and warns.
    """

    folder: Path | None = None
    seed: Seed = 0
    device: str = "auto"
    checkpoint_seconds: NonNegative = 30.0
    checkpoint_steps: Whole = 0
    progress: bool = True
    title: str = "train"
    unused_parameters: bool = False
    memory_format: MemoryFormat | None = None
    gradient_checkpointing: bool = False
    sync_bn: bool = False
    tf32: bool = True
    compile: Compile = "none"
