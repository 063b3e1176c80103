"""Networks with selectors as ONNX with static shapes, as one compiled graph, and in a folder."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import timm
import torch

import edakari
from edakari.core.plan import KeepTokens
from edakari.export import to_onnx, to_program
from tests.surgery.tokens.networks import images, logits, plan, tiny

DYNAMIC = {"NonZero", "Loop", "If", "Compress", "Unique", "SequenceAt"}


def pruned(selector: str, **options: str) -> torch.nn.Module:
    settings = (("package", "append"), ("proportional", True)) if selector == "spvit" else ()
    settings = (*settings, ("unmerge", "always")) if options else settings
    edits = tuple(KeepTokens(f"blocks.{index}", count, selector, settings) for index, count in ((1, 20), (2, 11)))
    model = tiny(depth=3, **options).float()
    graph = edakari.trace(model, images(1).float())
    return edakari.apply(model, plan(*edits, fingerprint=graph.fingerprint))


@pytest.mark.parametrize(
    ("selector", "pool"), [("spvit", ""), ("evit", ""), ("tome", ""), ("tome", "avg"), ("spvit", "avg")]
)
def test_onnx_has_static_shapes(selector: str, pool: str, tmp_path: Path) -> None:
    small = pruned(selector, **({"global_pool": pool} if pool else {}))
    found = to_onnx(small, images(2).float(), tmp_path / "net.onnx")
    assert found.absolute <= 1e-4
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "net.onnx"))
    assert not DYNAMIC & {node.op_type for node in model.graph.node}
    for value in (*model.graph.value_info, *model.graph.output):
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ("tome", "beit_base_patch16_224"),
        ("spvit", "eva02_tiny_patch14_224"),
        pytest.param("spvit", "beit_base_patch16_224", marks=pytest.mark.slow),
        pytest.param("tome", "eva02_tiny_patch14_224", marks=pytest.mark.slow),
    ],
)
def test_positions_that_follow_the_tokens_are_exported(name: str, by: str, tmp_path: Path) -> None:
    """Relative biases and rotary tables are gathered with the tokens."""
    small = {"img_size": 56 if "patch14" in name else 64, "depth": 3, "embed_dim": 48, "num_heads": 4}
    model = timm.create_model(name, num_classes=3, **small).eval()
    x = torch.randn(1, 3, small["img_size"], small["img_size"])
    fewer = edakari.prune(model, x, "macs<=80%", method=by).model
    assert to_onnx(fewer, x, tmp_path / "net.onnx").absolute <= 1e-4
    assert not DYNAMIC & {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}


@pytest.mark.parametrize("kind", ["ViT", pytest.param("Beit", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "by", ["spvit", *(pytest.param(by, marks=pytest.mark.slow) for by in ("evit", "tome", "random_tokens"))]
)
def test_masks_that_transformers_makes_for_exports_follow_the_tokens(kind: str, by: str, tmp_path: Path) -> None:
    """Under export its networks hand every block a mask over all pairs of tokens."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**small, image_size=32, patch_size=8)
    config.use_relative_position_bias = kind == "Beit"
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    x = torch.randn(1, 3, 32, 32)
    fewer = edakari.prune(model, x, "macs<=80%", method=by).model
    assert to_onnx(fewer, x, tmp_path / "net.onnx").absolute <= 1e-4


def test_a_program_and_one_compiled_graph(tmp_path: Path) -> None:
    model, x = pruned("spvit"), images(2).float()
    assert to_program(model, x, tmp_path / "net.pt2").absolute <= 1e-5
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=count)
    for _ in range(3):
        torch.testing.assert_close(logits(compiled, x), logits(model, x))
    assert len(graphs) == 1


def test_save_and_load(tmp_path: Path) -> None:
    dense = edakari.build("edakari:fashion_vit", weights="pretrained")
    x = torch.rand(2, 1, 28, 28)
    graph = edakari.trace(dense, x[:1])
    edits = (KeepTokens("blocks.2", 30, "spvit", (("merge", "arith"), ("package", "append"))),)
    made = edakari.Plan(edits, graph.fingerprint, graph.inputs)
    small = edakari.apply(dense, made)
    for parameter in small.blocks[2].token_gate.parameters():
        torch.nn.init.normal_(parameter)
    edakari.save(small, made, tmp_path / "net")
    again = edakari.load(tmp_path / "net")
    assert torch.equal(logits(again, x), logits(small, x))
