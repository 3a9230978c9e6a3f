"""A decoder for pydicom: lossless JPEG, and JPEG of 12 bits, by libjpeg-turbo.

The plug-ins that pydicom knows for these are no choice: GDCM ends the whole process on some
damaged frames, pylibjpeg-libjpeg is under the GPL.
"""

from imagecodecs import jpeg8_decode
from pydicom.pixels.decoders import (
    JPEGExtended12BitDecoder,
    JPEGLosslessDecoder,
    JPEGLosslessSV1Decoder,
)
from pydicom.pixels.decoders.base import DecodeRunner

NAME = "imagecodecs"


def is_available(_uid: str) -> bool:
    """Asked by pydicom."""
    return True


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    levels = jpeg8_decode(frame)
    runner.set_option("bits_allocated", 8 * levels.itemsize)
    if levels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return bytes(levels.tobytes())


for decoder in (JPEGExtended12BitDecoder, JPEGLosslessDecoder, JPEGLosslessSV1Decoder):
    decoder.add_plugin(NAME, (__name__, decode_frame.__name__))
