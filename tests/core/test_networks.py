"""What is handed in as a network: wrapped and compiled ones, and what is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from edakari import Plan, apply, load, measure_latency, prune, save, simulate, trace
from edakari.core.copying import copied
from edakari.core.networks import unwrapped
from edakari.core.protocols import Criterion
from edakari.criteria import BatchNormScale, FeatureDiscrimination, GeometricMedian, Magnitude, Taylor
from edakari.errors import EdakariError, ModelError, PlanError, WrongArgument
from edakari.export import to_onnx, to_program
from edakari.testing import ToyTask, exactness, random_plan


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def part(net: Any) -> nn.Module:
    net.body[1] = compiled(net.body[1])
    net.body[2].compile(backend="eager")
    return net  # type: ignore[no-any-return]


def forward(net: Any) -> nn.Module:
    net.forward = torch.compile(net.forward, backend="eager")
    return net  # type: ignore[no-any-return]


def distributed(net: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(net)


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "compiled in place": in_place,
    "parts compiled": part,
    "forward compiled": forward,
    "DataParallel": nn.DataParallel,
    "DDP": distributed,
    "compiled DDP": lambda net: compiled(distributed(net)),
    "DDP of parts compiled": lambda net: distributed(part(net)),
}


class Net(nn.Module):
    """A network of which parts can be wrapped."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), nn.Conv2d(8, 6, 1), nn.ReLU()
        )
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(params=WRAPPED)
def wrapped(request: pytest.FixtureRequest) -> nn.Module:
    net = WRAPPED[request.param](Net().double().eval())
    net(torch.randn(1, 3, 8, 8).double())  # compiles what is compiled
    return net.eval()


def test_a_wrapped_network_is_pruned_as_the_network_inside(wrapped: nn.Module) -> None:
    plain, x = Net().double().eval(), torch.randn(2, 3, 8, 8).double()
    graph = trace(plain, x)
    plan = random_plan(graph, 0.5)
    found = trace(wrapped, x)
    assert (found.groups, found.fingerprint, found.unprunable) == (graph.groups, graph.fingerprint, graph.unprunable)
    with torch.no_grad():
        small, wanted = apply(wrapped, plan), apply(plain, plan)
        assert [*small.state_dict()] == [*wanted.state_dict()]
        assert torch.equal(small(x), wanted(x))
        assert torch.allclose(simulate(wrapped, plan)(x), wanted(x), rtol=1e-12)
        assert exactness(wrapped, x, plan) < 1e-12
        for each in (small, copied(wrapped)):
            assert all(part._compiled_call_impl is None for part in each.modules())
            assert not hasattr(vars(each).get("forward"), "_torchdynamo_orig_callable")
            for parameter in each.parameters():
                parameter.zero_()
            assert not each(x).any()
        assert torch.allclose(wrapped(x), plain(x), rtol=1e-12)


def test_a_wrapped_network_is_scored_as_the_network_inside(wrapped: nn.Module) -> None:
    plain, wrapped, task = Net().eval(), wrapped.float(), ToyTask()
    graph = trace(plain, task.example())
    batches = list(task.batches("calibration"))[:2]
    criteria: list[Criterion] = [Magnitude(), GeometricMedian(), BatchNormScale(), Taylor(), FeatureDiscrimination()]
    for criterion in criteria:
        wanted, found = (criterion.score(each, graph, batches, task) for each in (plain, wrapped))
        assert all(torch.allclose(found[name], score) for name, score in wanted.items()), criterion


def test_a_wrapped_network_is_saved_and_exported_as_the_network_inside(wrapped: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    net = wrapped.float()
    plan = random_plan(trace(net, x), 0.5)
    small = apply(net, plan)
    save(compiled(small), plan, tmp_path / "saved")
    again = load(tmp_path / "saved", model=net)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert to_program(net, x, tmp_path / "x.pt2").relative < 1e-5


def test_a_network_that_nothing_is_around_stays_itself() -> None:
    net = Net()
    assert unwrapped(net, "f(model)") is net
    assert unwrapped(compiled(net), "f(model)") is net
    assert unwrapped(nn.DataParallel(net), "f(model)") is net
    parts = part(net)
    bare = unwrapped(parts, "f(model)")
    assert all(part._compiled_call_impl is None for part in bare.modules())
    assert bare is not parts
    assert bare.body[1][0].weight is parts.body[1]._orig_mod[0].weight
    assert [*bare.state_dict()] == [*Net().state_dict()]
    assert unwrapped(in_place(Net()), "f(model)")._compiled_call_impl is None


def sharded(net: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(net)
    return net


def fully_sharded(net: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(net, device_id=torch.device("cpu"))


def tensor_parallel(net: Any) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    net.head.weight = nn.Parameter(distribute_tensor(net.head.weight.detach(), init_device_mesh("cpu", (1,))))
    return net  # type: ignore[no-any-return]


def scripted_part(net: Any) -> nn.Module:
    net.body = torch.jit.script(net.body)
    return net  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (torch.jit.script, "the network is a ScriptModule.*before torch.jit.script"),
        (lambda net: torch.jit.trace(net, torch.zeros(1, 3, 8, 8)), "the network is a ScriptModule"),
        (lambda net: torch.export.export(net, (torch.zeros(1, 3, 8, 8),)).module(), "the network .*ExportedProgram"),
        (scripted_part, "module 'body' of Net is a ScriptModule"),
        (sharded, "the network is sharded by FSDP.*full state dict"),
        (fully_sharded, "the network is sharded by FSDP.*full state dict"),
        (tensor_parallel, "parameter 'head.weight' of Net is a DTensor"),
    ],
    ids=["script", "trace", "export", "scripted part", "fully_shard", "FSDP", "tensor parallel"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_what_cannot_be_unwrapped_is_refused(wrap: Callable[[nn.Module], nn.Module], found: str) -> None:
    x = torch.zeros(1, 3, 8, 8)
    graph = trace(Net(), x)
    plan, net = Plan((), graph.fingerprint, graph.inputs), wrap(Net().eval())
    for call in (
        lambda: trace(net, x),
        lambda: apply(net, plan),
        lambda: simulate(net, plan),
        lambda: measure_latency(net, x),
    ):
        with pytest.raises(ModelError, match=found):
            call()


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    net, x = Net(), torch.zeros(1, 3, 8, 8)
    graph = trace(net, x)
    plan = Plan((), graph.fingerprint, graph.inputs)
    calls: list[tuple[Callable[[], Any], type[EdakariError], str]] = [
        (lambda: trace(Net, x), ModelError, r"trace\(model, example\) takes .*the class Net .*Net\(\.\.\.\)"),  # type: ignore[arg-type]
        (lambda: trace(x, net), ModelError, "a Tensor .*another order"),  # type: ignore[arg-type]
        (lambda: trace("resnet18", x), ModelError, "the text 'resnet18'.*edakari.build"),  # type: ignore[arg-type]
        (lambda: trace(net.state_dict(), x), ModelError, "state dict"),  # type: ignore[arg-type]
        (lambda: trace(lambda x: x, x), ModelError, "the function <lambda>"),  # type: ignore[arg-type]
        (lambda: trace(torch.export.export(net, (x,)), x), ModelError, "before torch.export"),  # type: ignore[arg-type]
        (lambda: trace(plan, x), ModelError, "a Plan"),  # type: ignore[arg-type]
        (lambda: trace(None, x), ModelError, "a NoneType"),  # type: ignore[arg-type]
        (lambda: apply(plan, net), PlanError, r"apply\(model, plan\) are swapped"),  # type: ignore[arg-type]
        (lambda: simulate(plan, net), PlanError, r"simulate\(model, plan\) are swapped"),  # type: ignore[arg-type]
        (lambda: apply(Net, plan), ModelError, "the class Net"),  # type: ignore[arg-type]
        (lambda: apply(plan, plan), ModelError, "a Plan"),  # type: ignore[arg-type]
        (lambda: apply(net, graph), PlanError, "a Graph"),  # type: ignore[arg-type]
        (lambda: apply(net, Plan), PlanError, "the class Plan"),  # type: ignore[arg-type]
        (lambda: apply(net, "runs/first"), PlanError, "load_plan"),  # type: ignore[arg-type]
        (lambda: apply(net, plan, x), PlanError, "apply.*takes a graph.*a Tensor"),  # type: ignore[arg-type]
        (lambda: save(plan, net, tmp_path), WrongArgument, r"save\(model, plan, folder\): .*the network Net"),  # type: ignore[arg-type]
        (lambda: measure_latency(Net, x), ModelError, r"measure_latency\(model, example\) .*the class Net"),  # type: ignore[arg-type]
        (lambda: prune(x, net, "macs<=50%"), EdakariError, "Net|Tensor"),  # type: ignore[arg-type]
        (lambda: to_onnx(Net, x, tmp_path / "x.onnx"), ModelError, "the class Net"),  # type: ignore[arg-type]
        (lambda: to_program(Net, x, tmp_path / "x.pt2"), ModelError, "the class Net"),  # type: ignore[arg-type]
        (lambda: Magnitude().score(Net, graph), ModelError, "the class Net"),  # type: ignore[arg-type]
    ]
    for call, error, found in calls:
        with pytest.raises(error, match=found):
            call()
