"""DICOM files made by pydicom's own writer."""

from io import BytesIO
from typing import Any

import numpy as np
from imagecodecs import jpeg8_encode
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

COMPRESSED = {
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "lossless JPEG": JPEGLosslessSV1,
}
PATIENT = {"PatientName": "Roe^Jane", "PatientID": "4711", "PatientBirthDate": "19700101"}


def dicom_bytes(
    levels: np.ndarray,
    photometric: str = "MONOCHROME2",
    *,
    bits: int | None = None,
    syntax: str = ExplicitVRLittleEndian,
    **elements: Any,
) -> bytes:
    """A file of these pixels, (H, W), (H, W, 3) or frames of them; ``elements`` by keyword."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = generate_uid(entropy_srcs=["cxr"])
    for keyword, value in PATIENT.items():
        setattr(film, keyword, value)
    film.set_pixel_data(
        levels, photometric, bits or 8 * levels.itemsize, generate_instance_uid=False
    )
    for keyword, value in elements.items():
        setattr(film, keyword, value)
    if syntax == JPEGLosslessSV1:  # pydicom has no encoder for it
        depth = bits or 8 * levels.itemsize
        frame = jpeg8_encode(levels, lossless=True, predictor=1, bitspersample=depth)
        film.PixelData = encapsulate([frame])
        film["PixelData"].VR = "OB"
        film.file_meta.TransferSyntaxUID = syntax
    elif syntax in COMPRESSED.values():
        film.compress(syntax, generate_instance_uid=False)
    else:
        film.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    film.save_as(file, enforce_file_format=True)
    return file.getvalue()


def look_up_table(entries: np.ndarray, *, first: int, bits: int, signed: bool = False) -> Dataset:
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "US", entries.tolist())
    return item
