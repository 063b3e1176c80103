"""The page on which `edakari inspect --html` draws a network."""

import html.parser
import re

import pytest
import torch
from torch import nn

from edakari.graph import trace
from edakari.models import build, default_example
from edakari.models.supernet_blocks import SearchBlock
from edakari.report.inspection import inspection
from edakari.report.network_page import render_network

HOSTILE = '<script>alert("1")</script>&\''


class Page(html.parser.HTMLParser):
    """Gathers what a browser would load, the groups in drawings and tables, and checks that tags close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.drawn: set[int] = set()
        self.listed: set[int] = set()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "srcset")]
        self.tags.append(tag)
        numbers = {int(value) for name, value in attrs if name == "data-g"}
        if "svg" in self.open:
            self.drawn |= numbers
        elif tag == "tr":
            self.listed |= numbers
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(model: nn.Module, example: torch.Tensor, name: str = "mine") -> tuple[str, int]:
    graph = trace(model.eval(), example)
    return render_network(inspection(name, graph, model)), len(graph.groups)


@pytest.mark.parametrize(
    "name",
    [
        "edakari:fashion_vit",
        "edakari:resnet20",
        "torchvision:densenet121",
        "torchvision:shufflenet_v2_x0_5",
    ],
)
def test_every_group_is_drawn_and_listed_on_a_page_that_loads_nothing(name):
    with torch.device("meta"):
        model = build(name)
    text, groups = page_of(model, default_example(name, model), name)
    page = Page(text)
    assert page.drawn == page.listed == set(range(groups))
    assert page.loaded == []
    assert not re.search(r"https?://|@import|url\((?!#)", text)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return x + self.second(self.first(x))


@pytest.mark.parametrize(("count", "folded"), [(4, False), (40, True)])
def test_many_equal_blocks_are_folded(count, folded):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *(Block() for _ in range(count)), nn.Conv2d(4, 2, 1))
    text, groups = page_of(model, torch.zeros(1, 3, 4, 4))
    found = re.search(r"<summary><span[^>]*><b>2 … 40</b> 39 like 1</span>", text)
    assert (found is not None) == folded
    assert Page(text).drawn == set(range(groups))
    assert text.count("<title>residual sum, branch can be dropped</title>") == count


def test_parallel_paths_are_listed_beside_branches():
    text, _ = page_of(nn.Sequential(nn.Conv2d(3, 8, 1), SearchBlock(8, 16, 2)), torch.zeros(1, 3, 8, 8))
    assert "<h2>Parallel paths that can be dropped</h2>" in text
    assert "<code>1.paths.0" in text.partition("<h2>Parallel paths")[2]
    Page(text)


def test_names_from_the_network_are_escaped():
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.Conv2d(3, 4, 1))
    model.add_module(f"second {HOSTILE}", nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)))
    text, _ = page_of(model, torch.zeros(1, 3, 4, 4), HOSTILE)
    plain, _ = page_of(nn.Sequential(nn.Conv2d(3, 2, 1)), torch.zeros(1, 3, 4, 4))
    assert Page(text).tags.count("script") == Page(plain).tags.count("script") == 2
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_what_stays_is_hatched_with_its_reason():
    text, _ = page_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 4, 4))
    assert re.search(r'<rect class="pin"[^>]*><title>in: 3 left alone, aten.convolution ', text)
    assert re.search(r'<rect class="pin"[^>]*><title>out: 2 left alone, the network&#39;s output</title>', text)


def test_a_network_without_groups_has_a_page_too():
    text, groups = page_of(nn.Linear(3, 2), torch.zeros(1, 3))
    assert groups == 0
    assert Page(text).drawn == set()
