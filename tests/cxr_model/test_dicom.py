"""DICOM films are shown as their files say, and as the same pixels in any other file."""

import re
import struct
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import COMPRESSED, PATIENT, dicom_bytes, look_up_table
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from cxr_model.cache import build_cache, decode_film
from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.dicom import read_dicom
from cxr_model.errors import DataError
from cxr_model.index import build_index

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (48, 40), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (48, 40), dtype=np.uint16)
COLORS = RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8)
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def shown(data: bytes) -> np.ndarray:
    return np.asarray(read_dicom(data, max_pixels=300_000))


def shipped(name: str) -> bytes:
    """One of the files that come with pydicom."""
    return (Path(pydicom.__file__).parent / "data" / "test_files" / name).read_bytes()


def png_bytes(levels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("levels", [GREY, DEEP], ids=["8 bits", "12 bits in 16"])
def test_a_dicom_and_a_png_of_the_same_pixels_are_the_same_film(levels: np.ndarray) -> None:
    for color in ("grey", "rgb"):
        expected = decode_film(png_bytes(levels), 16, color)
        np.testing.assert_array_equal(decode_film(dicom_bytes(levels), 16, color), expected)
    colors = decode_film(png_bytes(COLORS), 16, "rgb")
    np.testing.assert_array_equal(decode_film(dicom_bytes(COLORS, "RGB"), 16, "rgb"), colors)


@pytest.mark.parametrize("syntax", COMPRESSED.values(), ids=COMPRESSED)
@pytest.mark.parametrize("levels", [GREY, DEEP, COLORS], ids=["8 bits", "12 bits", "colours"])
def test_lossless_compression_changes_nothing(levels: np.ndarray, syntax: str) -> None:
    photometric = "RGB" if levels.ndim == 3 else "MONOCHROME2"
    bits = 12 if levels.itemsize == 2 else 8
    plain = dicom_bytes(levels, photometric, bits=bits)
    packed = dicom_bytes(levels, photometric, bits=bits, syntax=syntax)
    assert packed != plain
    np.testing.assert_array_equal(shown(packed), shown(plain))


def test_lossless_jpeg_of_another_encoder_decodes() -> None:
    packed, plain = (shipped(f"SC_rgb_{name}.dcm") for name in ("jpeg_gdcm", "rle"))
    np.testing.assert_array_equal(shown(packed), shown(plain))


def test_lossy_jpeg_of_12_bits_shows_the_film_of_its_lossless_twin() -> None:
    lossy, lossless = (shown(shipped(f"{name}.dcm")) for name in ("JPGExtended", "JPEG2000"))
    assert np.corrcoef(lossy.ravel(), lossless.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("kind", ["JPEG-LS", "JPEG 2000", "lossless JPEG"])
def test_a_frame_that_claims_to_be_huge_takes_no_memory(kind: str) -> None:
    data = dicom_bytes(DEEP, bits=12, syntax=COMPRESSED[kind])
    kinds, size = (">2I", (40, 48)) if kind == "JPEG 2000" else (">2H", (48, 40))
    begin = data.index(b"\xe0\x7f\x10\x00")  # PixelData
    huge = struct.pack(kinds, 60_000, 60_000)
    claim = data[:begin] + data[begin:].replace(struct.pack(kinds, *size), huge, 1)
    with pytest.raises(DataError, match="3600000000 pixels in the frame, 1920 by Rows and"):
        shown(claim)


def test_damaged_frames_are_refused_whatever_the_decoder_raises() -> None:
    rng = np.random.default_rng(0)
    for syntax in COMPRESSED.values():
        whole = dicom_bytes(DEEP, bits=12, syntax=syntax)
        begin = whole.index(b"\xfe\xff\x00\xe0") + 16  # the first fragment
        for _ in range(50):
            torn = bytearray(whole)
            for place in rng.integers(begin, len(whole), 5):
                torn[place] = rng.integers(256)
            with suppress(DataError):
                shown(bytes(torn))


def test_jpeg_of_8_bits_is_decoded_as_pillow_decodes_it() -> None:
    file = BytesIO()
    Image.fromarray(GREY).save(file, "JPEG", quality=95)
    film = dcmread(BytesIO(dicom_bytes(GREY)))
    film.PixelData = encapsulate([file.getvalue()])
    film.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    packed = BytesIO()
    film.save_as(packed)
    difference = shown(packed.getvalue()).astype(int) - np.asarray(Image.open(file))
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("encoding", ["implicit", "bigendian", "RLE", "jpeg_ls_lossless"])
def test_the_same_film_in_another_encoding_is_the_same(encoding: str) -> None:
    np.testing.assert_array_equal(
        shown(shipped(f"MR_small_{encoding}.dcm")), shown(shipped("MR_small.dcm"))
    )


def test_monochrome1_is_the_negative_of_monochrome2() -> None:
    for levels, elements in ((GREY, {}), (DEEP, {"WindowCenter": 2000, "WindowWidth": 3000})):
        positive = shown(dicom_bytes(levels, "MONOCHROME2", **elements))
        negative = shown(dicom_bytes(levels, "MONOCHROME1", **elements))
        np.testing.assert_array_equal(negative, 255 - positive)


def test_the_first_window_cuts_the_range_as_the_standard_says() -> None:
    window = {"WindowCenter": [2048, 100], "WindowWidth": [4096, 10]}
    x = RAMP.astype(float)
    for function, expected in (
        ("LINEAR", np.clip((x - 2047.5) / 4095 + 0.5, 0, 1)),
        ("LINEAR_EXACT", np.clip((x - 2048) / 4096 + 0.5, 0, 1)),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (x - 2048) / 4096))),
    ):
        film = shown(dicom_bytes(RAMP, bits=12, VOILUTFunction=function, **window))
        np.testing.assert_allclose(film, 255 * expected, atol=0.51)
    narrow = shown(dicom_bytes(RAMP, bits=12, WindowCenter=1000, WindowWidth=200))
    assert (narrow[RAMP < 899] == 0).all()
    assert (narrow[RAMP > 1100] == 255).all()


def test_the_window_is_in_units_after_the_rescale() -> None:
    stored = dicom_bytes(RAMP, bits=12, WindowCenter=1000, WindowWidth=400)
    scaled = dicom_bytes(
        RAMP, bits=12, WindowCenter=1001, WindowWidth=799,
        RescaleSlope=2, RescaleIntercept=-1000 + 1,
    )  # fmt: skip
    difference = shown(scaled).astype(int) - shown(stored)
    assert np.abs(difference).max() <= 1


def test_without_a_window_a_rescale_moves_nothing_but_a_falling_one_inverts() -> None:
    plain = shown(dicom_bytes(DEEP))
    rescaled = dicom_bytes(DEEP, RescaleSlope=0.5, RescaleIntercept=-1024)
    np.testing.assert_array_equal(shown(rescaled), plain)
    falling = shown(dicom_bytes(DEEP, RescaleSlope=-1, RescaleIntercept=4095))
    np.testing.assert_array_equal(falling, 255 - plain)


def test_signed_levels_are_shown_over_their_own_range() -> None:
    film = shown(dicom_bytes((RAMP.astype(np.int16) - 2048), bits=16))
    np.testing.assert_allclose(film, RAMP / 4095 * 255, atol=0.51)


def test_a_voi_table_comes_before_a_window() -> None:
    curve = np.round(np.linspace(0, 1, 4096) ** 2 * 1023).astype(int)
    table = look_up_table(curve, first=0, bits=10)
    film = shown(dicom_bytes(RAMP, bits=12, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2))
    np.testing.assert_allclose(film, curve[RAMP] / 1023 * 255, atol=0.51)


def test_a_table_of_bytes_may_have_more_than_256_entries_and_begin_anywhere() -> None:
    curve = np.linspace(0, 255, 3000).round().astype(int)
    table = look_up_table(curve, first=500, bits=8)
    film = shown(dicom_bytes(RAMP, bits=12, VOILUTSequence=[table]))
    np.testing.assert_array_equal(film, curve[np.clip(RAMP.astype(int) - 500, 0, 2999)])


def test_a_modality_table_is_read_as_pydicom_reads_it() -> None:
    curve = np.round(np.sqrt(np.linspace(0, 1, 4096)) * 65535).astype(int)
    table = look_up_table(curve, first=0, bits=16)
    data = dicom_bytes(RAMP, bits=12, ModalityLUTSequence=[table])
    expected = apply_modality_lut(RAMP, dcmread(BytesIO(data)))
    np.testing.assert_allclose(shown(data), expected / 65535 * 255, atol=0.51)


def test_padding_is_black_and_does_not_stretch_the_range() -> None:
    collimated = DEEP.copy()
    collimated[:4] = 65535
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        film = shown(dicom_bytes(collimated, photometric, PixelPaddingValue=65535))
        assert (film[:4] == 0).all()
        whole = shown(dicom_bytes(DEEP, photometric))
        np.testing.assert_array_equal(film[4:], whole[4:])
    band = shown(dicom_bytes(DEEP, PixelPaddingValue=3000, PixelPaddingRangeLimit=4095))
    assert (band[DEEP >= 3000] == 0).all()


def test_palettes_and_deep_colours_become_rgb() -> None:
    palette = {
        f"{color}PaletteColorLookupTable{part}": value
        for number, color in enumerate(("Red", "Green", "Blue"))
        for part, value in (
            ("Descriptor", [256, 0, 8]),
            ("Data", bytes((level * (number + 1)) % 256 for level in range(256))),
        )
    }
    film = shown(dicom_bytes(GREY, "PALETTE COLOR", **palette))
    expected = GREY[..., None].astype(int) * [1, 2, 3] % 256
    np.testing.assert_array_equal(film, expected)
    deep = shown(dicom_bytes(COLORS.astype(np.uint16) << 8, "RGB"))
    np.testing.assert_array_equal(deep, COLORS)


def test_nothing_of_the_patient_is_kept_in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom_bytes(GREY)
    assert b"Roe^Jane" in data
    read = []
    real = pydicom.dcmread
    monkeypatch.setattr(
        "cxr_model.dicom.dcmread", lambda *a, **k: read.append(real(*a, **k)) or read[0]
    )
    image = read_dicom(data, max_pixels=10_000)
    (film,) = read
    assert not any(keyword in film for keyword in PATIENT)
    assert not image.info


def test_what_is_no_single_film_is_told_in_one_line() -> None:
    deflated = dicom_bytes(GREY, syntax=DeflatedExplicitVRLittleEndian)
    no_image = dcmread(BytesIO(dicom_bytes(GREY)))
    del no_image.PixelData
    file = BytesIO()
    no_image.save_as(file)
    for data, message in (
        (dicom_bytes(np.stack([GREY, GREY])), "2 frames, and a film has one"),
        (dicom_bytes(np.zeros((600, 600), np.uint8)), "600 x 600 pixels are no radiograph's"),
        (dicom_bytes(GREY)[:-100], "number of bytes of pixel data is less than expected"),
        (dicom_bytes(GREY, WindowCenter=5, WindowWidth=0), "Window Width must be greater than"),
        (deflated, "deflated data set; write it as Explicit VR Little Endian"),
        (shipped("rtdose_1frame.dcm"), "32-bit grey levels; a film has at most 16"),
        (file.getvalue(), "DICOM without an image"),
        (bytes(128) + b"DICM", "TransferSyntaxUID"),
    ):
        with pytest.raises(DataError, match=re.escape(message)) as told:
            shown(data)
        assert "\n" not in str(told.value)


def test_without_pydicom_other_films_still_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cxr_model.dicom", None)
    decode_film(png_bytes(GREY), 16, "grey")
    with pytest.raises(DataError, match=r"'pip install pydicom imagecodecs' is needed"):
        decode_film(dicom_bytes(GREY), 16, "grey")


def test_a_folder_of_dicom_films_is_indexed_and_cached(tmp_path: Path) -> None:
    for number, name in enumerate(("Normal/a.dcm", "Pneumonia/b.dicom", "Covid/c.DCM")):
        file = tmp_path / "films" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(dicom_bytes(DEEP[number:], bits=12))
    index = build_index(tmp_path / "films", DataConfig(), LabelConfig())
    assert index["error"].tolist() == ["", "", ""]
    assert set(index["format"]) == {"DICOM"}
    assert (index["width"].tolist(), set(index["mode"])) == ([40, 40, 40], {"L"})
    report = build_cache(tmp_path / "films", index, tmp_path, size_px=16, color="grey")
    assert report.num_written == 3
