"""Seeds of several purposes out of one."""

from __future__ import annotations

import numpy as np

from edakari.core.seeds import derived_seed


def test_a_seed_is_the_same_everywhere_and_another_for_each_purpose() -> None:
    assert derived_seed(0, "training images") == derived_seed(0, "training images")
    found = {derived_seed(seed, purpose) for seed in range(20) for purpose in ("a", "b", "training images")}
    assert len(found) == 60
    assert all(0 <= seed < 2**63 for seed in found)


def test_what_is_drawn_by_a_derived_seed_is_not_what_the_seed_draws() -> None:
    plain = np.random.default_rng(0).permutation(100)
    assert (plain == np.random.default_rng((0, 0)).permutation(100)).all()  # which is why seeds are derived
    assert not (plain == np.random.default_rng((derived_seed(0, "x"), 0)).permutation(100)).all()
