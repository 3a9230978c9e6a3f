"""What pydicom lacks for JPEG frames: a decoder of lossless and 12-bit ones, and a look ahead.

The plug-ins that pydicom knows for these are no choice: GDCM ends the whole process on some
damaged frames, pylibjpeg-libjpeg is under the GPL. Here it is libjpeg-turbo, by imagecodecs.
"""

import struct

from imagecodecs import jpeg8_decode
from pydicom.pixels.decoders import (
    JPEGExtended12BitDecoder,
    JPEGLosslessDecoder,
    JPEGLosslessSV1Decoder,
)
from pydicom.pixels.decoders.base import DecodeRunner

NAME = "imagecodecs"

_JPEG = b"\xff\xd8"
_JPEG_2000 = b"\xff\x4f\xff\x51"
_FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}
_FILL = 0xFF


def is_available(_uid: str) -> bool:
    """Asked by pydicom."""
    return True


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    levels = jpeg8_decode(frame)
    runner.set_option("bits_allocated", 8 * levels.itemsize)
    if levels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return bytes(levels.tobytes())


def num_declared_pixels(frame: bytes) -> int:
    """Width times height in the header of a JPEG, JPEG-LS or JPEG 2000 frame; 0 without one.

    Decoders take as much memory as it says, whatever the film's Rows and Columns are.
    """
    if not frame.startswith(_JPEG):
        start = frame.find(_JPEG_2000)  # some writers leave it in the boxes of a JP2 file
        if start < 0:
            return 0
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)  # ISO 15444-1 A.5.1
        return int(max(0, right - left) * max(0, bottom - top))
    place = 2
    while place + 9 <= len(frame):  # ISO 10918-1 B.1.1 and B.2.2
        marker, length = struct.unpack_from(">xBH", frame, place)
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", frame, place + 5)
            return int(height * width)
        place += 1 if marker == _FILL else 2 + length
    return 0


for decoder in (JPEGExtended12BitDecoder, JPEGLosslessDecoder, JPEGLosslessSV1Decoder):
    decoder.add_plugin(NAME, (__name__, decode_frame.__name__))
