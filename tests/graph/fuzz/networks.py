"""Random networks as data: a program of steps, each of a kind, and the module that runs it.

A program prints as Python that makes it again. `grow` makes one of the choices of a function, so that Hypothesis, a
seed or a test can be what chooses.
"""

from __future__ import annotations

import dataclasses as dc
import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from tests.graph.fuzz import blocks, functions, layers, lookups
from tests.graph.fuzz.kinds import KINDS, Kind, Pick

__all__ = ["Network", "Program", "build", "grow", "networks", "program", "shrunk", "step"]

_LOADED = (blocks, functions, layers, lookups)  # importing them fills the table of kinds

LARGEST = 1600
"""Values of one image that a step may write."""

WIDEST = 64
"""Positions along one dimension."""

STEMS = ("conv", "conv", "patches")
"""Kinds that a network begins with, so that there is something to prune."""


@dc.dataclass(frozen=True)
class Step:
    """One step of a program.

    Args:
        kind: name in `KINDS`.
        operands: numbers of the values that it reads; 0 is the input, n is what step n writes.
        settings: of the kind.
    """

    kind: str
    operands: tuple[int, ...]
    settings: Mapping[str, Any] = dc.field(default_factory=dict)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f'step("{self.kind}", {", ".join(map(str, self.operands))}{settings})'


def step(kind: str, *operands: int, **settings: Any) -> Step:
    """A step as it is printed."""
    return Step(kind, operands, settings)


@dc.dataclass(frozen=True)
class Program:
    """A network as data.

    Args:
        steps: in order; what no later step reads goes through a linear layer of its own to an output.
        pixels: height and width of the input, which has three channels.
    """

    steps: tuple[Step, ...]
    pixels: int = 6

    def __repr__(self) -> str:
        written = [f"{each!r},  # {number}: {_shape(self, number)}" for number, each in enumerate(self.steps, start=1)]
        return f"program(\n{textwrap.indent(chr(10).join(written), '    ')}\n    pixels={self.pixels},\n)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How Hypothesis shows it."""
        printer.text(repr(self))


def program(*steps: Step, pixels: int = 6) -> Program:
    """A program as it is printed."""
    return Program(steps, pixels)


def _shape(program: Program, number: int) -> str:
    try:
        values = Network(Program(program.steps[:number], program.pixels)).shapes
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return " x ".join(map(str, values[number][1:]))


class Read(nn.Module):
    """A linear layer over all that a value holds."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(torch.Size(shape[1:]).numel(), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


class Network(nn.Module):
    """Runs a program; functions run in its own forward pass, layers are modules named "step1", "step2", …"""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.functions: dict[int, Callable[..., torch.Tensor]] = {}
        values = [torch.zeros(2, 3, program.pixels, program.pixels)]
        for number, each in enumerate(program.steps, start=1):
            operands = [values[index] for index in each.operands]
            made = KINDS[each.kind].make([tuple(x.shape) for x in operands], each.settings)
            self._add(number, made)
            with torch.no_grad():
                values.append(self._run(number, operands))
        self.shapes = [tuple(value.shape) for value in values]
        read = {index for each in program.steps for index in each.operands}
        self.loose = [number for number in range(1, len(values)) if number not in read]
        for number in self.loose:
            setattr(self, f"read{number}", Read(self.shapes[number]))

    def _add(self, number: int, made: Callable[..., torch.Tensor]) -> None:
        if isinstance(made, nn.Module):
            setattr(self, f"step{number}", made.eval())
        else:
            self.functions[number] = made

    def _run(self, number: int, operands: Sequence[torch.Tensor]) -> torch.Tensor:
        function = self.functions.get(number)
        return getattr(self, f"step{number}")(*operands) if function is None else function(*operands)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [images]
        for number, each in enumerate(self.program.steps, start=1):
            values.append(self._run(number, [values[index] for index in each.operands]))
        return tuple(getattr(self, f"read{number}")(values[number]) for number in self.loose)


def build(program: Program, seed: int = 0) -> Network:
    """The network of a program, with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(program).eval()


def grow(pick: Pick, most: int = 10, kinds: Sequence[Kind] | None = None) -> Program:
    """A program from choices.

    Args:
        pick: chooses one of a sequence; the first is the simplest.
        most: steps at most.
        kinds: to choose from; None is all.
    """
    pixels = pick((4, 6, 8))
    values = [torch.zeros(2, 3, pixels, pixels)]
    steps: list[Step] = []
    for _ in range(pick(range(1, most + 1))):
        every = [KINDS[name] for name in STEMS] if not steps else list(KINDS.values()) if kinds is None else list(kinds)
        shapes = [tuple(value.shape) for value in values]
        kind = pick([kind for kind in every if kind.fits_some(shapes)])
        operands = kind.operands(pick, shapes)
        settings = kind.draw(pick, [shapes[index] for index in operands])
        made = kind.make([shapes[index] for index in operands], settings)
        with torch.no_grad():
            value = (made.eval() if isinstance(made, nn.Module) else made)(*(values[index] for index in operands))
        if value.dim() > 1 and value[0].numel() <= LARGEST and max(value.shape[1:]) <= WIDEST:
            values.append(value)
            steps.append(Step(kind.name, tuple(operands), settings))
    return Program(tuple(steps), pixels)


@st.composite
def networks(draw: Callable[[Any], Any], most: int = 10) -> Program:
    """Programs of up to `most` steps."""
    return grow(lambda options: draw(st.sampled_from(options)), most)


def shrunk(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A program without the steps that a failure does not need; for programs that Hypothesis did not draw."""
    for smaller in _smaller(program):
        try:
            build(smaller)
        except Exception:
            continue
        if fails(smaller):
            return shrunk(smaller, fails)
    return program


def _smaller(program: Program) -> Iterator[Program]:
    for gone in range(len(program.steps), 0, -1):
        for instead in dict.fromkeys((0, *program.steps[gone - 1].operands)):
            steps = [
                Step(each.kind, tuple(_renumbered(index, gone, instead) for index in each.operands), each.settings)
                for number, each in enumerate(program.steps, start=1)
                if number != gone
            ]
            if steps and (instead or all(gone not in each.operands for each in program.steps)):
                yield Program(tuple(steps), program.pixels)
    for pixels in itertools.takewhile(lambda size: size < program.pixels, (4, 6)):
        yield Program(program.steps, pixels)


def _renumbered(index: int, gone: int, instead: int) -> int:
    index = instead if index == gone else index
    return index - 1 if index > gone else index
