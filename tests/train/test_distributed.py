"""Two processes on the CPU train as one does on the same global batches."""

import torch
from safetensors.torch import load_file

from tests.together import together
from tests.train import repairs, worker


def test_two_processes(tmp_path):
    """One training after the other in the same processes, in fp32 and then in bf16 with batch normalisation."""
    together(worker.main, tmp_path, "plain", "norm")
    worker.main(tmp_path, "plain")
    found = {
        mode: [load_file(tmp_path / f"{mode}-2-{rank}.safetensors") for rank in range(2)] for mode in ("plain", "norm")
    }
    for first, second in found.values():
        assert all(torch.equal(first[name], second[name]) for name in first)
    alone, (shared, _) = load_file(tmp_path / "plain-1-0.safetensors"), found["plain"]
    assert alone.keys() == shared.keys()
    for name in alone:
        torch.testing.assert_close(shared[name], alone[name], atol=1e-6, rtol=1e-4)


def test_a_cut_network_is_repaired_on_the_batches_of_all_processes():
    together(repairs.main)
