import onnx
import pytest
import torch
from torch import nn

import edakari
from edakari.core.plan import DropBranch, Plan
from edakari.errors import ExportError
from edakari.export import About, to_onnx, to_program
from edakari.export.onnx_model import feeds, open_onnx


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


EXAMPLE = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dynamic", [False, True])
def test_onnx_computes_the_same(tmp_path, dynamic):
    model = Block().train()
    check = to_onnx(model, EXAMPLE, tmp_path / "x" / "model.onnx", dynamic_batch=dynamic)
    assert check.relative < 1e-5
    assert check.bytes == (tmp_path / "x" / "model.onnx").stat().st_size
    assert model.training
    batch = onnx.load(check.path).graph.input[0].type.tensor_type.shape.dim[0]
    assert bool(batch.dim_param) == dynamic
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["model.onnx"]


def test_program_computes_the_same(tmp_path):
    check = to_program(Block().eval(), EXAMPLE, tmp_path / "model.pt2")
    assert check.relative <= 1e-6
    loaded = torch.export.load(check.path).module()
    assert loaded(EXAMPLE).shape == (1, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize("export", [to_onnx, to_program])
def test_a_network_that_differs_is_refused_and_nothing_is_written(tmp_path, export):
    (tmp_path / "old").write_text("old")
    with pytest.raises(ExportError, match=r"not the same network|cannot be exported"):
        export(Noise(), EXAMPLE, tmp_path / "old")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


@pytest.mark.parametrize("export", [to_onnx, to_program])
def test_a_network_that_does_not_run_is_refused(tmp_path, export):
    with pytest.raises(ExportError, match="Block"):
        export(Block(), torch.rand(1, 4, 8, 8), tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Sides(nn.Module):
    """Paths that change the size of images, in one sum, and a block on it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1, stride=2), nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.MaxPool2d(2))
        self.c, self.d, self.head = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        y = torch.relu_(self.a(x) + self.c(self.b(x).relu()))
        return self.head(y + self.d(y))


def test_dropped_paths_are_exported_for_other_batches_and_sizes_and_compiled(tmp_path):
    model = Sides().eval()
    graph = edakari.trace(model, EXAMPLE)
    plan = Plan((DropBranch("c:path"), DropBranch("d:branch")), graph.fingerprint, graph.inputs)
    small = edakari.apply(model, plan, graph).eval()
    check = to_onnx(small, EXAMPLE, tmp_path / "model.onnx", dynamic_batch=True)
    session, other = open_onnx(check.path), torch.rand(3, 3, 12, 12)
    assert torch.allclose(torch.tensor(session.run(None, feeds(session, other))[0]), small(other), atol=1e-5)
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(small, (other,), dynamic_shapes=({0: free, 2: 2 * torch.export.Dim("half")},))
    larger = torch.rand(2, 3, 20, 12)
    assert torch.equal(program.module()(larger), small(larger))
    compiled = torch.compile(small, backend="eager", fullgraph=True, dynamic=True)
    assert torch.equal(compiled(larger), small(larger))
    assert torch.equal(compiled(other), small(other))


class Refused(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), Refused())

    def forward(self, x):
        return self.inner(self.stem(x))


def test_an_operator_that_the_exporter_refuses_is_named_with_its_module(tmp_path):
    with pytest.raises(ExportError, match=r"bessel_j0.*It is in inner\.1; replace it there"):
        to_onnx(Heads(), EXAMPLE, tmp_path / "model.onnx")


class Several(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 4, 3), form

    def forward(self, x):
        return self.form(self.conv(x))


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda y: y, ["logits"]),
        (lambda y: [y], ["logits"]),
        (lambda y: {"scores": y + 1, "boxes": [y, y * 2]}, ["scores", "boxes_0", "boxes_1"]),
        (lambda y: (y + 1, y * 2), ["logits_0", "logits_1"]),
    ],
)
def test_inputs_and_outputs_are_named_and_metadata_is_in_the_file(tmp_path, form, names):
    about = About("images", "logits", {"task": "classification", "classes": ["cat", "dög"]})
    check = to_onnx(Several(form), EXAMPLE, tmp_path / "model.onnx", about=about, dynamic_batch=True)
    session = open_onnx(check.path)
    assert [each.name for each in session.get_inputs()] == ["images"]
    assert [each.name for each in session.get_outputs()] == names
    told = session.get_modelmeta().custom_metadata_map
    assert told == {"task": "classification", "classes": '["cat", "dög"]'}
