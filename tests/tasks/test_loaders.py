import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edakari.core.processes import Processes
from edakari.errors import DataError
from edakari.tasks import DataSettings
from edakari.tasks.image_data import image_data
from edakari.tasks.loaders import ArrayBatches
from edakari.tasks.order import Order
from edakari.tasks.pixels import Pixels
from edakari.tasks.sources import Arrays, from_folder

PLAIN = Pixels((6, 6), 1, (0.0,), (1.0,))


def arrays(count=23, channels=1):
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, channels), dtype=np.uint8)
    return Arrays(images, np.arange(count) % 3, ("a", "b", "c"))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.booleans())
def test_an_order_has_its_length_and_repeats_nothing(count, batch_size, epoch, shuffle):
    order = Order(count, batch_size, seed=1, shuffle=shuffle)
    batches = list(order.batches(epoch))
    indices = np.concatenate(batches)
    assert len(batches) == len(order)
    assert len(set(indices.tolist())) == len(indices)
    if not shuffle:
        assert indices.tolist() == list(range(count))
    full = list(Order(count, batch_size, seed=1, shuffle=shuffle, drop_last=True).batches(epoch))
    if count >= batch_size:
        assert len(indices) >= count - 1  # a single image in a last batch is left out
        assert [batch.tolist() for batch in full] == [batch.tolist() for batch in batches if len(batch) == batch_size]
    else:
        assert len(indices) == count
    assert [batch.tolist() for batch in order.batches(epoch, 1)] == [batch.tolist() for batch in batches[1:]]


def test_the_order_is_a_function_of_seed_and_epoch():
    def first(seed, epoch):
        return next(Order(50, 10, seed, shuffle=True).batches(epoch)).tolist()

    assert first(0, 1) == first(0, 1)
    assert len({tuple(first(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 6))
def test_processes_share_each_batch(world, count, parts):
    kept = Processes.__dict__["here"]
    try:
        whole = [batch.tolist() for batch in Order(count, parts * world, shuffle=False).batches(0)]
        shares = []
        for rank in range(world):
            Processes.here = lambda rank=rank: Processes(rank, world)
            shares.append([batch.tolist() for batch in Order(count, parts * world, shuffle=False).batches(0)])
            assert [b.tolist() for b in Order(count, parts * world, shared=True).batches(0)] == whole
        assert sorted(i for share in shares for batch in share for i in batch) == list(range(count))
        sizes = set()
        for rank in range(world):
            Processes.here = lambda rank=rank: Processes(rank, world)
            order = Order(count if count >= parts * world else count - count % world, parts * world, shuffle=True)
            sizes.add(tuple(len(batch) for batch in order.batches(0)))
            assert all(len(each) == len(order) for each in sizes)
        assert len(sizes) == 1  # or a process would wait for the others' gradients forever
    finally:
        Processes.here = kept


def test_training_batches_that_do_not_divide_are_refused(monkeypatch):
    monkeypatch.setattr(Processes, "here", lambda: Processes(0, 2))
    with pytest.raises(DataError, match="5 images does not divide among 2"):
        next(Order(20, 5, shuffle=True).batches(0))
    with pytest.raises(DataError, match=r"3 images does not divide among 2.* there are 3 training images only"):
        next(Order(3, 4, shuffle=True).batches(0))
    for fitting in (Order(20, 6, shuffle=True), Order(20, 5), Order(20, 5, shuffle=True, shared=True)):
        fitting.check()


def test_pixels_without_augmentation_are_the_images_normalised():
    source = arrays()
    batches = ArrayBatches(source, Order(23, 10), Pixels((6, 6), 1, (0.25,), (0.5,)))
    images, labels = map(torch.cat, zip(*batches, strict=True))
    expected = (torch.from_numpy(source.images[..., 0]).double() / 255 - 0.25) / 0.5
    torch.testing.assert_close(images[:, 0].double(), expected, atol=1e-6, rtol=0)
    assert labels.tolist() == source.labels.tolist()
    assert images.dtype == torch.float32


def test_augmented_images_are_shifted_or_mirrored_originals():
    source = arrays(40)
    pixels = Pixels((6, 6), 1, (0.0,), (1.0,), pad=2, flip=True)
    ((images, _),) = ArrayBatches(source, Order(40, 40), pixels)
    found = set()
    for index, image in enumerate(images[:, 0]):
        original = torch.from_numpy(source.images[index, :, :, 0]).float() / 255
        options = {}
        for flip in (False, True):
            padded = torch.nn.functional.pad(original.flip(1) if flip else original, (2, 2, 2, 2))
            for top in range(5):
                for left in range(5):
                    options[flip, top, left] = padded[top : top + 6, left : left + 6]
        matching = [key for key, option in options.items() if torch.allclose(option, image)]
        assert matching
        found.add(matching[0])
    assert len(found) > 15


@pytest.mark.parametrize("jitter", [0.0, 0.2])
@pytest.mark.parametrize("views", [0, 2])
def test_batches_made_on_a_device_are_those_of_the_cpu(jitter, views):
    source = arrays(23, channels=3)
    pixels = Pixels((6, 6), 3, (0.2,) * 3, (0.5,) * 3, pad=2, flip=True, jitter=jitter)
    order = Order(23, 5, seed=4, shuffle=True)
    usual, there = (ArrayBatches(source, order, pixels, views, device) for device in (None, torch.device("cpu")))
    for batches in (usual, there):
        batches.set_epoch(3)
    for pair in ((usual, there), (usual.skip(2), there.skip(2))):
        for expected, found in zip(*pair, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_images_of_training_and_validation_lie_on_the_device(monkeypatch):
    asked = DataSettings(device="auto", batch_size=4, val_batch_size=7, augment="none")
    data = image_data(asked, arrays(20), arrays(21))
    assert data.batches("train").device is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {split: data.batches(split).device for split in ("train", "calibration", "val")}
    assert found == {"train": torch.device("cuda"), "calibration": None, "val": torch.device("cuda")}
    assert data.with_indices(2).device == torch.device("cuda")
    assert [len(data.batches(split)) for split in ("train", "val")] == [5, 3]


def test_channels_and_size_are_adapted():
    ((images, _),) = ArrayBatches(arrays(4), Order(4, 4), Pixels((12, 12), 3, (0.0,) * 3, (1.0,) * 3))
    assert images.shape == (4, 3, 12, 12)
    assert torch.equal(images[:, 0], images[:, 2])
    colour = arrays(4, channels=3)
    ((grey, _),) = ArrayBatches(colour, Order(4, 4), PLAIN)
    torch.testing.assert_close(grey[0, 0], torch.from_numpy(colour.images[0]).float().mean(2) / 255)


def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(generator.integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(
                tmp_path / name / f"{number}.png"
            )
    return from_folder(tmp_path)


def files(source, **asked):
    return image_data(DataSettings(image_size=8, pad=2, **asked), source, source, seed=7)


@pytest.mark.parametrize("kind", ["arrays", "light", "timm"])
def test_an_epoch_is_the_same_however_it_is_reached(kind, tmp_path):
    if kind == "arrays":
        make = lambda workers: ArrayBatches(  # noqa: E731
            arrays(), Order(23, 4, 7, shuffle=True), Pixels((6, 6), 1, (0.0,), (1.0,), pad=2, flip=True)
        )
    else:
        source = folder(tmp_path)
        make = lambda workers: files(source, batch_size=3, augment=kind, workers=workers).batches("train")  # noqa: E731
    batches = make(0)
    batches.set_epoch(3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    whole = [images for images, _ in batches]
    assert torch.equal(torch.get_rng_state(), state)
    again = make(2)
    again.set_epoch(3)
    torch.manual_seed(99)
    rest = [images for images, _ in again.skip(1)]
    assert len(whole) == len(batches) == len(rest) + 1
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    batches.set_epoch(4)
    assert not torch.equal(next(iter(batches))[0], whole[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_from_workers_too(tmp_path, workers):
    source = folder(tmp_path)
    source.path(4).write_bytes(b"nothing")
    batches = files(source, batch_size=5, augment="none", workers=workers).batches("train")
    with pytest.raises(DataError, match=r"^image .*4\.png cannot be read") as caught:
        list(batches)
    assert "Traceback" not in str(caught.value)
