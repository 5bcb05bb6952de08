"""The headers of image files, which tell much without decoding the pixels."""

from typing import NamedTuple

from PIL import ExifTags, Image

#: EXIF orientations that exchange width and height.
TRANSPOSED = (5, 6, 7, 8)


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        size: Width and height, as the pixels are stored.
        mode: Pillow's name of the channels.
        orientation: EXIF's, 1 to 8; 1 is upright.
        kind: Pillow's name of the format.
    """

    size: tuple[int, int]
    mode: str
    orientation: int
    kind: str | None


def read_header(path: str) -> Header | None:
    """Read the header of an image file; None if Pillow cannot."""
    try:
        with Image.open(path) as image:
            # Pillow would decode a PNG to look for the orientation behind its pixels.
            exif = image.getexif() if image.format != 'PNG' or 'exif' in image.info else {}
            orientation = exif.get(ExifTags.Base.Orientation, 1)
            upright = orientation if orientation in range(1, 9) else 1
            return Header(image.size, image.mode, upright, image.format)
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        return None
