import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edakari.train.checkpoint import Checkpoint, pack, read, unpack, write

plain = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5)
keys = st.text(max_size=3) | st.integers(0, 9)
nested = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(nested)
def test_state_comes_back_through_json_as_it_was(state):
    tree, tensors = pack(state)
    back = unpack(json.loads(json.dumps(tree)), tensors)
    assert back == state
    assert repr(back) == repr(state)


def test_tensors_arrays_and_shared_storage_come_back(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    state = {
        "state": {0: {"momentum": base.t(), "step": torch.tensor(3.0)}, 1: {"momentum": base}},
        "random": np.arange(4, dtype=np.uint32),
        "empty": torch.zeros(0),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": np.int64(4),
        "mask": torch.tensor([True, False]),
    }
    write(tmp_path / "c.safetensors", Checkpoint({"a": (1, 2)}, 3, False, state))
    found = read(tmp_path / "c.safetensors", {"a": (1, 2)})
    assert (found.step, found.done) == (3, False)
    assert torch.equal(found.state["state"][0]["momentum"], base.t())
    assert found.state["random"].dtype == np.uint32
    assert found.state["count"] == 4
    assert found.state["half"].dtype == torch.bfloat16
    assert found.state["mask"].tolist() == [True, False]


def test_what_cannot_be_kept_is_named():
    with pytest.raises(TypeError, match=r"state\.a\.0.*function"):
        pack({"a": [lambda: 0]})


def test_no_file_is_no_checkpoint(tmp_path):
    assert read(tmp_path / "none.safetensors", {}) is None
