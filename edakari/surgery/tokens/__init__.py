"""Token pruning: selectors before the blocks of vision transformers."""

from edakari.surgery.tokens.adaptive import Adaptive
from edakari.surgery.tokens.attachment import attach, detach, gates, insert, selections
from edakari.surgery.tokens.layout import TokenBlock, TokenLayout, token_layout
from edakari.surgery.tokens.package_token import PackageMode, PackageNorm, package
from edakari.surgery.tokens.rows import restore
from edakari.surgery.tokens.selection import Selection, SelectionSettings, sampled
from edakari.surgery.tokens.sites import TokenSite, TokenSites, token_sites
from edakari.surgery.tokens.state import Decision, Rule, Strategy, TokenState

__all__ = [
    "Adaptive",
    "Decision",
    "PackageMode",
    "PackageNorm",
    "Rule",
    "Selection",
    "SelectionSettings",
    "Strategy",
    "TokenBlock",
    "TokenLayout",
    "TokenSite",
    "TokenSites",
    "TokenState",
    "attach",
    "detach",
    "gates",
    "insert",
    "package",
    "restore",
    "sampled",
    "selections",
    "token_layout",
    "token_sites",
]
