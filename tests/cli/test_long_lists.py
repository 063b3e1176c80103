"""What `edakari inspect` says of networks with more dimensions that cannot be cut than it lists."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from edakari.cli.main import app

NETWORK = """
import torch
from torch import nn


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(8, 2 + each) for each in range(12))

    def forward(self, x):
        return [head(x.flatten(1)) for head in self.heads]


def many():
    return Many()
"""


def test_the_rest_of_a_long_list_is_counted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORK)
    found = CliRunner().invoke(app, ["inspect", "nets.py:many", "--trust", "--groups", "--input", "1,2,2,2"])
    assert found.exit_code == 0, found.output
    assert "more; --all lists them" in found.output
