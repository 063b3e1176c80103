"""Selectors: modules that score tokens, one per file."""

from edakari.surgery.tokens.selectors.base import (
    MERGER,
    SELECTORS,
    Candidates,
    Selector,
    Site,
    TrainedSelector,
    Verdict,
    begin_at,
    build_selector,
    needs_attention,
    selector,
)
from edakari.surgery.tokens.selectors.class_attention import AttentionSelector
from edakari.surgery.tokens.selectors.merging import bipartite, merge_tokens
from edakari.surgery.tokens.selectors.multi_head import MultiHeadSelector, merged
from edakari.surgery.tokens.selectors.random_drop import RandomSelector
from edakari.surgery.tokens.selectors.single_head import SingleHeadSelector
from edakari.surgery.tokens.selectors.unlike import Start

__all__ = [
    "MERGER",
    "SELECTORS",
    "AttentionSelector",
    "Candidates",
    "MultiHeadSelector",
    "RandomSelector",
    "Selector",
    "SingleHeadSelector",
    "Site",
    "Start",
    "TrainedSelector",
    "Verdict",
    "begin_at",
    "bipartite",
    "build_selector",
    "merge_tokens",
    "merged",
    "needs_attention",
    "selector",
]
