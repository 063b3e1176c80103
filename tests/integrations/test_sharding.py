"""Networks that are sharded among processes are refused, whoever shards them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edakari.core.protocols import Schedule
from edakari.errors import ModelError, RecipeError, SettingsError
from edakari.integrations.hook_calls import HookCalls
from edakari.integrations.session import refuse_sharding
from edakari.pipeline import processes
from edakari.train import fit


def sharded() -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    return fully_shard(net, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))


def partitioned() -> nn.Module:
    net = nn.Linear(4, 4)
    net.weight.ds_status = "not available"  # as DeepSpeed marks the parameters of ZeRO stage 3
    return net


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize(("make", "found"), [(sharded, "sharded by FSDP.*shard what"), (partitioned, "by DeepSpeed")])
def test_trainings_refuse_a_sharded_network(make, found, alone) -> None:
    net = make()
    with pytest.raises(ModelError, match=found):
        fit(net, lambda model, batch: model(batch).sum(), [torch.zeros(2, 4)], Schedule(epochs=1, lr=0.1))
    with pytest.raises(ModelError, match=found):
        HookCalls(net, [])


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"])
def test_launchers_that_ask_for_sharding_are_refused(variable, monkeypatch) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(RecipeError, match=rf"{variable}.*`torchrun`"):
        processes.started(cpu=True)
    with pytest.raises(RecipeError, match=variable):
        fit(nn.Linear(4, 2), lambda model, batch: model(batch).sum(), [torch.zeros(2, 4)], Schedule(epochs=1, lr=0.1))


@pytest.mark.parametrize("strategy", ["fsdp", "FSDPStrategy", "deepspeed_stage_3", "ModelParallelStrategy"])
def test_strategies_that_shard_are_refused(strategy) -> None:
    with pytest.raises(SettingsError, match=rf"{strategy}.*use strategy='ddp'"):
        refuse_sharding("fit(strategy=...)", strategy, "strategy='ddp'")
    refuse_sharding("fit(strategy=...)", "ddp_find_unused_parameters_true", "strategy='ddp'")
