"""How many tokens each selector keeps: schedules, what they cost, and the mildest one within a budget."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.budget import Budget, Limits
from edakari.core.graph import Graph
from edakari.core.plan import KeepTokens, Plan
from edakari.core.protocols import Cost
from edakari.cost.counts import macs
from edakari.errors import BudgetError, InfeasibleBudget, ModelError, PlanError
from edakari.graph import example_for, fixed_graph, shadow_of
from edakari.latency.tokens import Packages, TokenCost, block_macs, quadratic, tokens_at
from edakari.surgery.tokens import TokenSites, attach, token_sites
from edakari.surgery.tokens.gate import GATE
from edakari.surgery.tokens.selectors import needs_attention

__all__ = [
    "Counts",
    "Schedule",
    "TokenDesign",
    "checked_ratios",
    "geometric",
    "known_costs",
    "linear",
    "mildest",
    "planned",
    "stages_of",
    "token_graph",
    "token_limits",
    "token_macs",
]

Counts = tuple[int, ...]
"""Patches behind each selector, not rising."""

Schedule = Callable[[float, int, int], Counts]
"""From strength in [0, 1), patches and the number of selectors to counts."""

STEPS = 400
"""Strengths that are tried between none and all."""
SPARE = 8
"""Rounds in which a schedule is made harder because its network costs more than its blocks."""


def geometric(strength: float, patches: int, selectors: int) -> Counts:
    """Each selector keeps the same share of what comes: (1 - strength)^s of all patches behind the s-th."""
    return tuple(int(patches * (1 - strength) ** (index + 1) + 1e-9) for index in range(selectors))


def linear(strength: float, patches: int, selectors: int) -> Counts:
    """Each takes away as many as the others, `strength` of half of all patches, and at most half of what comes."""
    counts, left = [], patches
    for index in range(selectors):
        wanted = patches - round(strength * patches / 2 * (index + 1))
        left = max(1, wanted, left - left // 2)
        counts.append(left)
    return tuple(counts)


@dc.dataclass(frozen=True, kw_only=True)
class TokenDesign:
    """Which selectors stand where.

    Args:
        selector: its name.
        blocks: places of the blocks in front of which they stand, rising.
        settings: of the selectors, by name.
        packages: that they make.
        schedule: of their counts.
    """

    selector: str
    blocks: tuple[int, ...]
    settings: Mapping[str, bool | int | float | str] = dc.field(default_factory=dict)
    packages: Packages = "one"
    schedule: Schedule = geometric

    def edits(self, sites: TokenSites, counts: Counts) -> tuple[KeepTokens, ...]:
        """The edits that keep these counts; selectors that would keep all are left out."""
        settings = tuple(sorted(self.settings.items()))
        before, found = dict(enumerate(sites.firsts().values())), []
        for index, count in zip(self.blocks, counts, strict=True):
            site = sites.blocks[index]
            if count < before[site.stage]:
                found.append(KeepTokens(site.name, count, self.selector, settings))
            before[site.stage] = min(before[site.stage], count)
        return tuple(found)

    def counts(self, strength: float, sites: TokenSites) -> Counts:
        """Patches behind each selector; in networks with stages the same share of each stage's."""
        if sites.staged:
            return tuple(int(sites.patches[index] * (1 - strength) + 1e-9) for index in self.blocks)
        return self.schedule(strength, sites.patches[0], len(self.blocks))

    def check(self, sites: TokenSites) -> None:
        """Raise what is wrong with the places.

        Raises:
            PlanError: there are none, they do not rise, the network has fewer blocks, or its stages do not suit the
            selector.
        """
        depth = len(sites.blocks)
        right = list(self.blocks) == sorted(set(self.blocks))
        if not self.blocks or not right or self.blocks[0] < 0 or self.blocks[-1] >= depth:
            raise PlanError(f"selectors stand in front of blocks 0 to {depth - 1}, rising, but got {self.blocks}")
        if sites.staged and needs_attention(self.selector):
            raise PlanError(
                f"{self.selector!r} looks at an attention over all tokens, but this network puts tokens back on a grid "
                "between stages; take spvit, dynamicvit or random_tokens"
            )
        stages = [sites.blocks[index].stage for index in self.blocks]
        if sites.staged and len(set(stages)) < len(stages):
            raise PlanError(
                f"a stage has one selector, but blocks {self.blocks} have several in one; the stages begin with blocks "
                f"{[sites.names.index(name) for name in sites.firsts()]}"
            )


def checked_ratios(keep_ratios: Sequence[float], design: TokenDesign, sites: TokenSites) -> Counts:
    """Counts from shares of the patches that the user names; in networks with stages, of each stage's.

    Raises:
        PlanError: there is not one for each selector, they rise within one stage, or one lies outside of 0 to 1.
    """
    if len(keep_ratios) != len(design.blocks):
        raise PlanError(
            f"keep_ratios has {len(keep_ratios)} ratios for {len(design.blocks)} selectors; give one for each"
        )
    rising = not sites.staged and list(keep_ratios) != sorted(keep_ratios, reverse=True)
    if any(not 0 < ratio <= 1 for ratio in keep_ratios) or rising:
        raise PlanError(
            f"keep ratios lie above 0 and up to 1 and never rise from selector to selector, found {keep_ratios}"
        )
    return tuple(
        int(sites.patches[index] * ratio + 1e-9) for index, ratio in zip(design.blocks, keep_ratios, strict=True)
    )


def mildest(limits: Limits, schedule: Callable[[float], Counts], names: Sequence[str], steps: int = STEPS) -> Counts:
    """The counts of the least strength that is within limits; every strength is looked up by itself.

    Args:
        limits: costs and what they may reach.
        schedule: counts by strength.
        names: of the blocks of the selectors.
        steps: strengths that are tried.

    Raises:
        InfeasibleBudget: none is; says what the hardest reaches.
    """
    least: dict[str, float] = {}
    for counts in _distinct(schedule, steps):
        sizes = {tokens_at(name): count for name, count in zip(names, counts, strict=True)}
        if limits.excess(sizes) <= 0:
            return counts
        for cost, _ in limits.terms:
            least[cost.name] = min(least.get(cost.name, math.inf), cost.total(sizes))
    reached = ", ".join(f"{cost.name} {least[cost.name]:.6g} {cost.unit}" for cost, _ in limits.terms)
    asked = ", ".join(f"{cost.name} {limit:.6g} {cost.unit}" for cost, limit in limits.terms)
    raise InfeasibleBudget(
        f"no number of tokens is within the budget of {asked}: the fewest tokens at these blocks reach {reached}. "
        "Prune earlier blocks, prune channels too, or ask for less.",
        least,
    )


def _distinct(schedule: Callable[[float], Counts], steps: int) -> Iterator[Counts]:
    seen = None
    for step in range(steps):
        counts = schedule(step / steps)
        if counts != seen and min(counts) >= 1:
            seen = counts
            yield counts


def planned(
    model: nn.Module,
    graph: Graph,
    budget: Budget,
    design: TokenDesign,
    costs: Sequence[Cost],
    keep_ratios: Sequence[float] = (),
) -> Plan:
    """The plan of a design within a budget.

    Args:
        model: the network.
        graph: of it.
        budget: in figures.
        design: the selectors.
        costs: measured costs; multiply-accumulates are counted, unless they are among them.
        keep_ratios: shares of the patches that the user named; then they are only checked against the budget.

    Raises:
        InfeasibleBudget: the budget cannot be met.
        BudgetError: it names a cost that does not depend on tokens.
    """
    sites = token_sites(model, example_for(model, graph.inputs))
    design.check(sites)
    names = [sites.names[index] for index in design.blocks]
    known = known_costs(model, graph, budget, costs, design.packages)
    limits = _limits(budget, known)

    def schedule(strength: float) -> Counts:
        return design.counts(strength, sites)

    fixed = checked_ratios(keep_ratios, design, sites) if keep_ratios else None
    counted = next((limit for cost, limit in limits.terms if cost.name == "macs"), None)
    for _ in range(SPARE):
        counts = mildest(limits, (lambda strength: fixed) if fixed else schedule, names)
        plan = Plan(design.edits(sites, counts), graph.fingerprint, graph.inputs)
        if counted is None or not plan.edits:
            return plan
        found = _exact_macs(model, plan)
        if found <= counted:
            return plan
        # the selectors' own work counts too
        estimated = known["macs"].total(plan.sizes())
        limits = _limits(budget, known, {"macs": counted - (found - estimated)})
    raise InfeasibleBudget(f"with its selectors the network stays at {found:.6g} MACs", {"macs": found})


def known_costs(
    model: nn.Module, graph: Graph, budget: Budget, costs: Sequence[Cost], packages: Packages
) -> dict[str, Cost]:
    """Costs by name: those that were measured, and multiply-accumulates where the budget names them."""
    known = {cost.name: cost for cost in costs}
    if any(term.cost == "macs" for term in budget.terms) and "macs" not in known:
        known["macs"] = token_macs(model, graph, packages)
    return known


def token_limits(model: nn.Module, graph: Graph, budget: Budget, costs: Sequence[Cost], packages: Packages) -> Limits:
    """A budget bound to costs by numbers of tokens.

    Raises:
        BudgetError: it names a cost that does not depend on tokens.
    """
    return _limits(budget, known_costs(model, graph, budget, costs, packages))


def _limits(budget: Budget, known: Mapping[str, Cost], lower: Mapping[str, float] | None = None) -> Limits:
    for term in budget.terms:
        if term.cost not in known:
            raise BudgetError(
                f"the budget term {str(term)!r} does not depend on the number of tokens; token pruning meets budgets "
                f"of macs and latency (known here: {', '.join(sorted(known)) or 'none'})"
            )
    return Limits(tuple((known[term.cost], (lower or {}).get(term.cost, term.limit)) for term in budget.terms))


def _exact_macs(model: nn.Module, plan: Plan) -> float:
    small = shadow_of(model, "meta")
    example = example_for(small, plan.inputs)
    return macs(_with_selectors(attach(small, plan.tokens(), example), example)).total({})


def _with_selectors(small: nn.Module, example: Any) -> Graph:
    """The graph of a network with selectors.

    Raises:
        ModelError: the network does not run with fewer tokens.
    """
    try:
        return fixed_graph(small, example)
    except ModelError as error:
        raise ModelError(
            f"{type(small).__name__} does not run with fewer tokens: {error.__cause__ or error}. It may hold a number "
            "of tokens, or put them back on a grid; such networks cannot lose tokens"
        ) from error


def token_graph(model: nn.Module, example: Any, counts: Mapping[str, int], sites: TokenSites) -> Graph:
    """The graph of a network whose blocks all get some number of patches; any ones, for it is all the same.

    Nothing in it can be pruned; it is for costs and for the layers that are timed.

    Args:
        model: the network, without selectors.
        example: an input.
        counts: patches from the first block of each stage on, by its name.
        sites: of the network.
    """
    small = shadow_of(model, "meta")
    whole = sites.firsts()
    meta = torch.utils._pytree.tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example)
    edits = [KeepTokens(name, count, "random") for name, count in counts.items() if count < whole[name]]
    return _with_selectors(attach(small, edits, meta), meta) if edits else fixed_graph(small, meta)


def token_macs(model: nn.Module, graph: Graph, packages: Packages = "one") -> TokenCost:
    """Multiply-accumulates of a network by the patches that its blocks get, without the selectors' own.

    Args:
        model: the network.
        graph: of it.
        packages: that selectors make.
    """
    example = example_for(model, graph.inputs)
    sites = token_sites(model, example)
    steps = [{name: max(1, count - back) for name, count in sites.firsts().items()} for back in range(3)]
    graphs = [token_graph(model, example, counts, sites) for counts in steps]
    found = [block_macs(each, sites.names, GATE)[::2] for each in graphs]
    most = max(sites.patches)
    if sites.staged:  # a straight line through two numbers, for a stage may have no more
        near, far = (each[0] for each in found[:2])
        table = quadratic([near, far, 2 * far - near], sites.patches, most)
    else:
        table = quadratic([each[0] for each in found], most, most + len(sites.blocks))
    return TokenCost("macs", "MAC", sites.names, most, packages, table, found[0][1], stages=stages_of(sites))


def stages_of(sites: TokenSites) -> Mapping[str, int]:
    """What a cost has to know of stages: nothing where there is one."""
    return sites.firsts() if sites.staged else {}
