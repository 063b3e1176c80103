"""Reading budgets, and what a wrong one gets."""

from __future__ import annotations

import dataclasses as dc

import pytest

from edakari.core.budget import Budget, Limits, Term
from edakari.core.space import Group, dense_sizes, legal_sizes, limited
from edakari.cost import bind, macs
from edakari.errors import BudgetError, UnknownName, nearest
from edakari.graph import trace
from edakari.testing import ToyTask, toy_cnn
from edakari.testing.costs import ProductCost


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("macs<=50%", [Term("macs", 0.5, True)]),
        ("MACs <= 2.1G, params<8M", [Term("macs", 2.1e9, False), Term("params", 8e6, False)]),
        ("activations<=1e6", [Term("activations", 1e6, False)]),
        ("params<=.5k", [Term("params", 500.0, False)]),
        ("macs<=100%", [Term("macs", 1.0, True)]),
        ("latency<=12ms", [Term("latency", 12.0, False)]),
        ("latency <= 0.8s, macs<=50%", [Term("latency", 800.0, False), Term("macs", 0.5, True)]),
        ("latency<=250us", [Term("latency", 0.25, False)]),
        ("latency<=60%", [Term("latency", 0.6, True)]),
        (
            "Latency@Pi-4<=30ms, latency@cpu<=60%, macs<=70%",
            [Term("latency@Pi-4", 30.0, False), Term("latency@cpu", 0.6, True), Term("macs", 0.7, True)],
        ),
        ("flops<=2G", [Term("flops", 2e9, False)]),
        ("FLOPs<=50 %", [Term("flops", 0.5, True)]),
        ("size<=1MB", [Term("size", 1e6, False)]),
        ("size <= 500 kB, macs<=60%", [Term("size", 5e5, False), Term("macs", 0.6, True)]),
        ("size<=2MiB", [Term("size", 2**21, False)]),
        ("size<=4096B", [Term("size", 4096, False)]),
        ("size<=25%", [Term("size", 0.25, True)]),
    ],
)
def test_good_budgets(text: str, terms: list[Term]) -> None:
    budget = Budget.parse(text)
    assert [(t.cost, t.relative) for t in budget.terms] == [(t.cost, t.relative) for t in terms]
    assert [t.limit for t in budget.terms] == pytest.approx([t.limit for t in terms])
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "sparsity", "terms"),
    [
        ("sparsity>=90%", 0.9, 0),
        ("macs<=40%, sparsity>=90%", 0.9, 1),
        (" Sparsity >= 97.5 % , params<=8M,macs<=2G", 0.975, 2),
        ("sparsity>80%", 0.8, 0),
        ("macs<=40%", 0.0, 1),
    ],
)
def test_a_sparsity_stands_beside_limits(text: str, sparsity: float, terms: int) -> None:
    budget = Budget.parse(text)
    assert budget.sparsity == pytest.approx(sparsity)
    assert len(budget.terms) == len(budget.limits.terms) == terms
    assert Budget.parse(str(budget)) == budget
    assert budget.absolute({"macs": 10.0}).sparsity == budget.sparsity
    assert budget.limits.sparsity == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sparsity<=90%", "did you mean 'sparsity>=90%'"),
        ("sparsity>=0.9", "did you mean 'sparsity>=90%'"),
        ("sparsity=0.95", "did you mean 'sparsity>=95%'"),
        ("sparsity>=90", "did you mean 'sparsity>=90%'"),
        ("sparsity>=100%", "below 100 %"),
        ("sparsity>=0%", "above 0 %"),
        ("sparsity>=80%, sparsity>=90%", "limits 'sparsity' twice"),
        ("sparsity>=lots", "cannot read"),
    ],
)
def test_a_wrong_sparsity_is_told(text: str, why: str) -> None:
    with pytest.raises(BudgetError, match=why):
        Budget.parse(text)


def test_a_sparsity_is_no_limit_of_channels() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    for text in ("sparsity>=90%", "macs<=50%, sparsity>=90%"):
        with pytest.raises(BudgetError, match="gradual_magnitude"):
            bind(Budget.parse(text), graph)
    assert bind(Budget.parse("macs<=50%, sparsity>=90%").limits, graph).terms


@pytest.mark.parametrize(
    "text",
    ["", "  ", "50%", "macs", "macs=50%", "macs<=", "macs<=0%", "macs<=101%", "macs<=0", "macs<=-1", "macs<=nan",
     "latency<=12", "latency<=12k", "latency<=0ms", "latency<=120%", "macs<=12ms", "macs<=2X", "macs<=1G,",
     "macs<=1G, macs<=2G", "macs>=5", "size<=1M", "size<=100", "size<=1ms", "macs<=1MB", "macs<=0.5",
     "params<=1", "latency@pi<=12", "latency@<=12ms", "latency@3<=12ms", "latency@a@b<=12ms", "macs@pi<=50%",
     "latency<=1ms, latency@a<=2ms", "latency@a<=1ms, latency@a<=2ms", None, 0.5],
)  # fmt: skip
def test_bad_budgets(text: str) -> None:
    with pytest.raises(BudgetError):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("macs<=0.5", "macs<=50%"), ("FLOPS<=.25", "flops<=25%"), ("params <= 1", "params<=100%"),
     ("size<=0.5", "size<=50%"), ("latency<=0.8", "latency<=80%")],
)  # fmt: skip
def test_a_share_without_its_sign_is_asked_back(text: str, meant: str) -> None:
    with pytest.raises(BudgetError, match=f"did you mean '{meant}'"):
        Budget.parse(text)


def test_any_cost_may_be_named_and_binding_decides() -> None:
    for text in ("energy<=50%", "my/costs.py:energy<=2k", "./a-b.py:Energy<=3"):
        assert str(Budget.parse(text)) == text.replace("2k", "2000")
    graph = trace(toy_cnn(), ToyTask().example())
    with pytest.raises(UnknownName, match=r"did you mean 'params'.*entry point group 'edakari.costs'"):
        bind(Budget.parse("param<=50%"), graph)
    own = dc.replace(macs(graph), name="energy", unit="mJ")
    assert bind(Budget.parse("energy<=50%, macs<=1k"), graph, [own]).terms[0] == (own, own.total({}) / 2)


def test_absolute_turns_shares_into_figures() -> None:
    budget = Budget.parse("macs<=25%, params<=8M").absolute({"macs": 400.0, "params": 1e9})
    assert budget.terms == (Term("macs", 100.0, False), Term("params", 8e6, False))


def test_a_share_of_what_is_not_known_is_told() -> None:
    with pytest.raises(BudgetError, match="percentage of the dense network's latency"):
        Budget.parse("macs<=50%, latency<=60%").absolute({"macs": 400.0})
    assert Budget.parse("latency<=12ms").absolute({}).terms == (Term("latency", 12.0, False),)


def test_excess_is_the_worst_overrun() -> None:
    macs = ProductCost({"a": 4, "b": 5}, ((1.0, ("a", "b")),))
    params = ProductCost({"a": 4, "b": 5}, ((1.0, ("a",)),), "params", "parameter")
    limits = Limits(((macs, 10.0), (params, 8.0)))
    assert limits.excess({}) == pytest.approx(1.0)
    assert limits.excess({"b": 2}) == pytest.approx(-0.2)
    assert "macs 20 of 10 MAC" in limits.describe({})


@pytest.mark.parametrize(
    ("group", "sizes"),
    [
        (Group("g", "channel", 5), (1, 2, 3, 4, 5)),
        (Group("g", "channel", 20, step=8), (8, 16, 20)),
        (Group("g", "channel", 32, step=8, least=9), (16, 24, 32)),
        (Group("g", "channel", 6, step=8), (6,)),
        (Group("g", "channel", 6, least=6), (6,)),
    ],
)
def test_legal_sizes(group: Group, sizes: tuple[int, ...]) -> None:
    assert legal_sizes(group) == sizes


def test_limited_rounds_widths_but_not_heads() -> None:
    wide, heads = limited([Group("w", "hidden", 100), Group("h", "head", 12)], round_to=8, min_channels=0.25)
    assert (wide.step, wide.least) == (8, 25)
    assert (heads.step, heads.least) == (1, 3)
    assert dense_sizes([wide, heads]) == {"w": 100, "h": 12}


def test_nearest_finds_typing_errors_only() -> None:
    assert nearest("magnitud", ["magnitude", "taylor"]) == "magnitude"
    assert nearest("xyz", ["magnitude", "taylor"]) is None
