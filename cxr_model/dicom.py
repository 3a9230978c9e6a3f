"""The film of a DICOM file as an 8-bit image, shown as its file says.

Of the file only what tells how pixels are shown is kept: the Image Pixel module (DICOM PS3.3
C.7.6.3), pixel padding (C.7.5.1.1.2), the modality LUT (C.11.1) and the VOI LUT (C.11.2).
pydicom skips all other elements at reading, the patient's among them.
"""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import apply_color_lut, apply_windowing, pixel_array
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from cxr_model import dicom_jpeg
from cxr_model.errors import DataError
from cxr_model.grey_levels import to_8_bits

_COLORS = ("Red", "Green", "Blue")
_ELEMENTS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(f"{color}PaletteColorLookupTableDescriptor" for color in _COLORS),
    *(f"{color}PaletteColorLookupTableData" for color in _COLORS),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in _COLORS),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
]
# Always the same one: films decode alike on every machine. These were given 25,000 damaged files
# and survived; on such GDCM ends the process and pylibjpeg-rle panics.
_PLUGINS = {
    JPEGBaseline8Bit: "pillow",
    **dict.fromkeys((JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), dicom_jpeg.NAME),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "pylibjpeg"),
    RLELossless: "pydicom",
}


def read_dicom(data: bytes, *, max_pixels: int) -> Image.Image:
    """The one film of a DICOM file, as an image of mode L or RGB.

    Grey levels pass through rescale or modality LUT and through the first VOI LUT or window;
    without any they are scaled by `cxr_model.grey_levels.to_8_bits`, as those of other files
    are. MONOCHROME1 is inverted, so that more is always brighter; padding is black. Overlays
    and annotations are left out.

    Raises DataError in one line: damaged files, several frames, more than ``max_pixels``,
    compressions for which no plug-in is installed.
    """
    try:
        film = _read(data)
        if "PixelData" not in film:
            raise DataError("DICOM without an image of whole grey levels or colours")
        num_frames, num_pixels = int(film.get("NumberOfFrames") or 1), film.Rows * film.Columns
        if num_frames != 1:
            raise DataError(f"{num_frames} frames, and a film has one; write it to a file alone")
        if num_pixels > max_pixels:
            raise DataError(f"{film.Columns} x {film.Rows} pixels are no radiograph's")
        is_grey = film.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")
        image = Image.fromarray(_grey(film) if is_grey else _rgb(film))
    except DataError:
        raise
    except Exception as error:  # on damaged bytes pydicom and five plug-ins raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(reason if len(reason) <= 300 else f"{reason[:300]}…") from error
    image.format = "DICOM"
    return image


def _read(data: bytes) -> Dataset:
    with BytesIO(data) as file:
        read_preamble(file, force=False)
        # Explicit VR, little endian: so the File Meta Information always is (PS3.10 7.1).
        meta = read_dataset(file, False, True, stop_when=_is_behind_file_meta)
    if meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        # pydicom inflates the whole file without a limit.
        raise DataError("a deflated data set; write it as Explicit VR Little Endian")
    return dcmread(BytesIO(data), specific_tags=list(_ELEMENTS))


def _is_behind_file_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _stored(film: Dataset) -> NDArray[Any]:
    syntax = film.file_meta.TransferSyntaxUID
    plugin = _PLUGINS.get(syntax, "")
    if syntax.is_encapsulated and syntax != RLELossless:
        frame = get_frame(film.PixelData, 0, number_of_frames=1)
        num_declared, num_pixels = dicom_jpeg.num_declared_pixels(frame), film.Rows * film.Columns
        if num_declared != num_pixels:
            raise DataError(f"{num_declared} pixels in the frame, {num_pixels} by Rows and Columns")
    if syntax == JPEGExtended12Bit and film.BitsStored == 8:
        plugin = "pillow"
    pixels: NDArray[Any] = pixel_array(film, decoding_plugin=plugin)
    return pixels


def _grey(film: Dataset) -> NDArray[np.uint8]:
    """Shown levels, (H, W). Each depends on its stored level alone, so a table is mapped."""
    stored = _stored(film)
    padding = _padding(film, stored)
    seen = stored if padding is None or padding.all() else stored[~padding]
    low, high = int(seen.min()), int(seen.max())
    if high - low >= 2**16:
        raise DataError(f"{film.BitsStored}-bit grey levels; a film has at most 16")
    shown = _shown(film, np.arange(low, high + 1))
    if film.PhotometricInterpretation == "MONOCHROME1":  # the least level is white, C.7.6.3.1.2
        shown = np.invert(shown)
    pixels: NDArray[np.uint8] = shown[np.clip(stored, low, high).astype(np.int32) - low]
    if padding is not None:
        pixels[padding] = 0
    return pixels


def _padding(film: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    first = film.get("PixelPaddingValue")
    if first is None:
        return None
    ends = sorted((first, film.get("PixelPaddingRangeLimit", first)))
    is_padding: NDArray[np.bool_] = (stored >= ends[0]) & (stored <= ends[1])
    return is_padding


def _shown(film: Dataset, stored: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What each of these stored levels is shown as before any inversion, (levels,)."""
    slope = float(film.get("RescaleSlope") or 1)
    intercept = float(film.get("RescaleIntercept") or 0)
    levels: NDArray[Any] = stored * slope + intercept
    if film.get("ModalityLUTSequence"):
        levels = _look_up(film, film.ModalityLUTSequence[0], stored)
    if film.get("VOILUTSequence"):
        table = film.VOILUTSequence[0]
        white = float(2 ** table.LUTDescriptor[2] - 1)
        entries = _look_up(film, table, levels.round().astype(np.int64))
        return (entries * (255 / white)).clip(0, 255).round().astype(np.uint8)
    if film.get("WindowCenter") is not None and film.get("WindowWidth") is not None:
        return _in_window(film, levels).round().astype(np.uint8)
    if film.get("ModalityLUTSequence"):
        return to_8_bits(levels)
    # A straight line moves black and white with the levels between them.
    return to_8_bits(stored) if slope > 0 else np.invert(to_8_bits(stored))


def _look_up(film: Dataset, table: Dataset, levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """PS3.3 C.11.1.1.1: levels beyond the table take its first or last entry.

    By hand, as pydicom holds the places in the type of the entries: in a table of 8-bit
    entries the 256th level and those behind it fall on its beginning.
    """
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = "<" if film.file_meta.TransferSyntaxUID.is_little_endian else ">"
        entries = np.frombuffer(entries, f"{order}u2")
    values = np.array(entries, dtype=np.int64, ndmin=1)
    found: NDArray[np.int64] = values[np.clip(levels - table.LUTDescriptor[1], 0, len(values) - 1)]
    return found


def _in_window(film: Dataset, levels: NDArray[Any]) -> NDArray[np.float64]:
    """Levels between 0 and 255: pydicom scales to the range of the bits that are stored."""
    window = Dataset()
    for name in ("PhotometricInterpretation", "WindowCenter", "WindowWidth", "VOILUTFunction"):
        if name in film:
            setattr(window, name, getattr(film, name))
    window.BitsStored, window.PixelRepresentation = 8, 0
    return apply_windowing(levels, window)


def _rgb(film: Dataset) -> NDArray[np.uint8]:
    """(H, W, 3); pydicom turns the YBR forms into RGB."""
    pixels, bits = _stored(film), int(film.BitsStored)
    if film.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, film)
        bits = 8 * pixels.itemsize
    if pixels.ndim != 3:
        raise DataError(f"photometric interpretation {film.PhotometricInterpretation!r}")
    shown: NDArray[np.uint8] = (pixels[..., :3] >> max(0, bits - 8)).astype(np.uint8)
    return shown
