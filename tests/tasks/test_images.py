"""What a file holds is what the network is given: a ramp in each of Pillow's modes, through the task's own loader."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edakari.errors import DataError, SettingsError
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.classify import ClassificationSettings
from edakari.tasks.draws import draws_of
from edakari.tasks.images import orientation, read_image, read_label_map, read_tensor, tensor_of
from edakari.tasks.pixels import Pixels, unit
from edakari.tasks.transforms import crop_window, training_transform

SIDE = 8
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
BYTES = (RAMP * 255).round().astype(np.uint8)
WORDS = (RAMP * 65535).round().astype(np.uint16)
GREY = BYTES / 255.0


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(rows: np.ndarray, depth: int, kind: int, *chunks: tuple[bytes, bytes], size=None) -> bytes:
    """A PNG file of raw rows of bytes, since Pillow does not write all that it reads."""
    width, height = size or (rows.shape[1] * 8 // depth, len(rows))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    body = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette(transparency: bytes | int | None = None) -> bytes:
    """Indices that run against the colours: index i is the grey 255 - i."""
    image = Image.fromarray(255 - BYTES).convert("P")
    image.putdata((255 - BYTES).ravel().tolist())
    image.putpalette([255 - index for index in range(256) for _ in range(3)])
    return saved(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def rgb(third: float = 1.0) -> Image.Image:
    return Image.fromarray(np.stack([BYTES, 255 - BYTES, (BYTES * third).astype(np.uint8)], -1))


def rotated(image: Image.Image, way: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = way
    return saved(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


COLOURS = np.stack([GREY, 1 - GREY, GREY])
BACK = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, 1), 8: lambda a: np.rot90(a, -1)}
"""What a camera stored, for each orientation, of an image that shall be seen upright."""
CASES = {
    "L": ("png", saved(Image.fromarray(BYTES), "PNG"), GREY, 0),
    "L with a transparent value": ("png", saved(Image.fromarray(BYTES), "PNG", transparency=0), GREY, 0),
    "1": ("png", saved(Image.fromarray(BYTES > 99), "PNG"), (BYTES > 99).astype(float), 0),
    "2 bits": ("png", png(np.array([[0b00011011]], np.uint8), 2, 0), np.array([[0, 1, 2, 3]]) / 3, 0),
    "16 bits, PNG": ("png", png(WORDS.astype(">u2").view(np.uint8).reshape(SIDE, -1), 16, 0), RAMP, 1e-5),
    "16 bits, TIFF": ("tif", saved(Image.fromarray(WORDS), "TIFF"), RAMP, 1e-5),
    "16 bits, TIFF, big-endian": ("tif", saved(Image.fromarray(WORDS.astype(">u2")), "TIFF"), RAMP, 1e-5),
    "16 bits, PGM": ("pgm", b"P5 8 8 65535\n" + WORDS.astype(">u2").tobytes(), RAMP, 1e-5),
    "12 bits, PGM": ("pgm", b"P5 8 8 4095\n" + (WORDS >> 4).astype(">u2").tobytes(), RAMP, 3e-4),
    "float": ("tif", saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), RAMP, 1e-6),
    "P": ("png", palette(), GREY, 0),
    "P with a transparent index": ("png", palette(7), GREY, 0),
    "P with transparencies": ("png", palette(bytes(range(256))), GREY, 0),
    "RGB": ("png", saved(rgb(), "PNG"), COLOURS, 0),
    "RGBA": ("png", saved(Image.merge("RGBA", (*rgb().split(), Image.fromarray(BYTES))), "PNG"), COLOURS, 0),
    "LA": ("png", saved(Image.merge("LA", (Image.fromarray(BYTES), Image.fromarray(255 - BYTES))), "PNG"), GREY, 0),
    "CMYK, TIFF": ("tif", saved(rgb().convert("CMYK"), "TIFF"), COLOURS, 0),
    "CMYK, JPEG": ("jpg", saved(rgb().convert("CMYK"), "JPEG", quality=100), COLOURS, 0.03),
    "YCbCr, JPEG": ("jpg", saved(rgb(), "JPEG", quality=100, subsampling=0), COLOURS, 0.03),
    **{
        f"turned {way}, {kind}": (
            ending,
            rotated(Image.fromarray(np.ascontiguousarray(back(BYTES))), way, kind),
            GREY,
            0,
        )
        for way, back in BACK.items()
        for kind, ending in (("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp"))
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_ramp_reaches_the_network_as_it_is(case, channels, tmp_path):
    ending, content, expected, close = CASES[case]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"x.{ending}").write_bytes(content)
    side = 4 if case == "2 bits" else SIDE
    plain = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "workers": 0, "augment": "none"}
    settings = DataSettings(
        source=str(tmp_path), val=str(tmp_path), image_size=side, channels=channels, batch_size=2, **plain
    )
    (images, _), *_ = task_from_settings(settings).batches("val")
    wanted = np.broadcast_to(expected, (3, *expected.shape[-2:]))
    if case == "2 bits":
        wanted = np.broadcast_to(wanted[:, :1], (3, 4, 4))
    if channels == 1:
        luma = np.tensordot((0.299, 0.587, 0.114), wanted, 1)[None]
        wanted, close = (luma, close + 1 / 255) if expected.ndim == 3 else (wanted[:1], close)
    assert images.shape[1] == channels
    assert np.abs(images[0].numpy() - wanted).max() <= close + 1e-6


@pytest.mark.parametrize("augment", ["light", "jitter", "timm"])
def test_deep_images_go_through_every_augmentation(augment, tmp_path):
    (tmp_path / "x.png").write_bytes(CASES["16 bits, PNG"][1])
    pixels = Pixels((SIDE, SIDE), 3, (0.0,) * 3, (1.0,) * 3, pad=1)
    ((draws,),) = draws_of(0, [0])
    found = unit(training_transform(pixels, augment)(read_tensor(tmp_path / "x.png"), draws))
    assert found.shape == (3, SIDE, SIDE)
    assert found.min() >= 0
    assert 0.3 < found.max() <= 1


def test_no_draw_of_timm_fails():
    pixels = Pixels((4, 4), 3, (0.5,) * 3, (0.5,) * 3)
    transform, image = training_transform(pixels, "timm"), rgb().resize((4, 4))
    for draws in draws_of(0, range(3000))[0]:
        assert transform(tensor_of(image), draws).dtype == torch.uint8
    # and each of its operations, as weak and as strong as can be
    for op in next(step for step in transform.transform.transforms[-1].transforms if hasattr(step, "ops")).ops:
        op.prob, op.magnitude_std = 1.0, 0.0
        for op.magnitude in range(11):
            assert op(image).size == (4, 4)


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photographs_have_the_pixels_that_pillow_reads(options, mode, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x.jpg"
    smooth = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((61, 43))
    path.write_bytes(saved(smooth.convert(mode), "JPEG", **options))
    found = read_tensor(path)
    assert len(found) == {"RGB": 3, "L": 1}[mode]
    assert torch.equal(found.expand(3, -1, -1), tensor_of(read_image(path)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"x\.jpg cannot be read"):
        read_tensor(path)


def test_photographs_are_read_without_a_decoder_of_torchvision_too(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    path.write_bytes(saved(rgb(), "JPEG"))
    fast = read_tensor(path)
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    assert torch.equal(read_tensor(path), fast)


WRONG = {
    "float beyond 1": (saved(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"), "0 to 255"),
    "float below 0": (saved(Image.fromarray((RAMP - 0.5).astype(np.float32)), "TIFF"), "-0.5 to 0.5"),
    "float without a value": (saved(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "nan"),
    "32-bit integers": (saved(Image.fromarray(WORDS.astype(np.int32)), "TIFF"), "32-bit"),
    "LAB": (saved(Image.new("LAB", (4, 4)), "TIFF"), "LAB"),
    "bomb": (png(np.zeros((1, 1), np.uint8), 8, 0, size=(60_000, 60_000)), "pixels"),
    "no pixels": (png(np.zeros((4, 0), np.uint8), 8, 0, size=(0, 4)), "cannot be read"),
    "bomb of text": (png(BYTES, 8, 0, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))), "cannot be read"),
    "cut short": (CASES["RGB"][1][:80], "cannot be read"),
    "another program's": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n", "cannot be read"),
    "nothing": (b"", "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_represented_is_one_error_at_once(case, tmp_path):
    content, said = WRONG[case]
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    start = time.process_time()
    for read in (
        (read_image, read_label_map, orientation) if said == "cannot be read" and case != "cut short" else (read_image,)
    ):
        with pytest.raises(DataError, match=r"bad\.png") as caught:
            read(path)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("read", [read_image, read_label_map, orientation])
def test_what_is_no_file_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "null.png").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "null", "missing"):
        with pytest.raises(DataError, match=f"{name}.png"):
            read(tmp_path / f"{name}.png")


NUMBERS = (np.arange(64).reshape(8, 8) % 5).astype(np.uint8)


def indexed() -> bytes:
    image = Image.fromarray(NUMBERS).convert("P")
    image.putdata(NUMBERS.ravel().tolist())
    image.putpalette([200, 10, 10, 200, 10, 10, 5, 5, 5, 0, 0, 0, 255, 255, 255])
    return saved(image, "PNG", transparency=0)


MAPS = {
    "P": ("png", indexed(), NUMBERS),
    "L": ("png", saved(Image.fromarray(NUMBERS), "PNG"), NUMBERS),
    "L, BMP": ("bmp", saved(Image.fromarray(NUMBERS), "BMP"), NUMBERS),
    "1": ("png", saved(Image.fromarray(NUMBERS > 2), "PNG"), NUMBERS > 2),
    "2 bits": ("png", png(np.array([[0b00011011]], np.uint8), 2, 0), np.array([[0, 1, 2, 3]])),
    "4 bits": ("png", png(np.array([[0x01, 0x5F]], np.uint8), 4, 0), np.array([[0, 1, 5, 15]])),
    "16 bits, PNG": ("png", saved(Image.fromarray(WORDS), "PNG"), WORDS),
    "16 bits, TIFF": ("tif", saved(Image.fromarray(WORDS.astype(">u2")), "TIFF"), WORDS),
    "32 bits": ("tif", saved(Image.fromarray(WORDS.astype(np.int32)), "TIFF"), WORDS),
    "turned": ("png", rotated(Image.fromarray(np.rot90(NUMBERS, 1).copy()), 6, "PNG"), NUMBERS),
}


@pytest.mark.parametrize("case", MAPS)
def test_label_maps_keep_their_numbers(case, tmp_path):
    ending, content, expected = MAPS[case]
    (tmp_path / f"x.{ending}").write_bytes(content)
    assert (read_label_map(tmp_path / f"x.{ending}") == expected).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (saved(rgb(), "PNG"), "RGB.*colours do not say"),
        (CASES["LA"][1], "LA"),
        (saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "mode F"),
        (saved(Image.fromarray(BYTES), "JPEG"), "cannot be read"),
        (saved(Image.fromarray(NUMBERS > 2), "TIFF", tiffinfo={262: 0}), "white as 0"),
    ],
    ids=["RGB", "LA", "float", "JPEG", "white is 0"],
)
def test_maps_that_hold_no_numbers_are_refused(content, said, tmp_path):
    (tmp_path / "map.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"map\.png.*{said}"):
        read_label_map(tmp_path / "map.png")


def pair(folder: Path, image: bytes, label: bytes) -> DataSettings:
    for name, content in (("images", image), ("labels", label)):
        (folder / name).mkdir()
        for number in range(8):
            (folder / name / f"{number}.png").write_bytes(content)
    return DataSettings(task="segmentation", source=str(folder), image_size=8, workers=0)


def test_images_and_maps_are_turned_together_or_not_at_all(tmp_path):
    turned = rotated(Image.fromarray(np.rot90(BYTES, 1).copy()), 6, "PNG")
    task = task_from_settings(pair(tmp_path, turned, MAPS["turned"][1]))
    image, target = task.data.source("train")[0]
    assert (target["map"] == torch.from_numpy(NUMBERS)).all()
    assert (image[1] == torch.from_numpy(BYTES)).all()
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="EXIF orientation is 1"):
        next(iter(task_from_settings(pair(tmp_path / "other", turned, MAPS["L"][1])).batches("train")))


def test_crops_and_interpolation_are_those_of_the_settings(tmp_path):
    from torchvision.transforms import v2

    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 120, 3), np.uint8))
        for number in range(2):
            image.save(tmp_path / "train" / name / f"{number}.png")
    options = {"crop_scale": (0.08, 0.1), "crop_ratio": (2.0, 2.1), "interpolation": "bicubic"}
    given = {"image_size": 80, "workers": 0, "mean": (0.0,), "std": (1.0,), "source": str(tmp_path)}
    task = task_from_settings(DataSettings(task={"name": "classification", **options}, **given))
    crop, areas = task.data.workers.call.crop, []
    for draws in draws_of(0, range(50))[0]:
        _, _, height, width = crop_window(160, 120, crop.scale, crop.ratio, draws)
        assert 1.8 < width / height < 2.3
        areas.append(width * height / (160 * 120))
    assert 0.07 < min(areas) < max(areas) < 0.11
    (pixels, _), *_ = task.batches("val")
    scaled = v2.functional.resize(tensor_of(image), 91, interpolation=v2.InterpolationMode.BICUBIC)
    assert torch.equal(pixels[0], unit(v2.functional.center_crop(scaled, 80)))
    with pytest.raises(SettingsError, match="crop_scale takes two numbers, the smaller one first"):
        ClassificationSettings(crop_scale=(0.5, 0.1))
