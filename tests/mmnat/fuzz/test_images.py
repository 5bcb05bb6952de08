"""Images and label maps from strangers: what checks them, and what decodes those that pass."""

import io
import os
import struct
import zlib

import numpy as np
import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from hostile_files import Confined, examples, mutated, put_no_file
from hypothesis import given
from hypothesis import strategies as st
from mmcv.transforms import Compose, LoadImageFromFile
from PIL import Image

from mmnat.commands import predict
from mmnat.config import register_modules
from mmnat.preflight.images import check_dataset_images, check_image_sizes
from mmnat.preflight.segmentation import check_segmentation_dataset

SIZE = (40, 30)
FORMATS = {'.jpg': 'JPEG', '.png': 'PNG', '.bmp': 'BMP', '.tif': 'TIFF', '.webp': 'WEBP', '.gif': 'GIF'}
FORMATS |= {'.ppm': 'PPM', '.ico': 'ICO', '.jp2': 'JPEG2000'}
READERS = ('detector', 'label map', 'predict')


def encoded(kind, mode='RGB'):
    file = io.BytesIO()
    values = np.arange(SIZE[0] * SIZE[1] * 3, dtype=np.uint8).reshape(SIZE[1], SIZE[0], 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(values).convert(mode)
    image.save(file, kind, **(dict(exif=exif) if kind in ('JPEG', 'PNG', 'WEBP', 'TIFF') else {}))
    return file.getvalue()


def labels():
    file = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 3).save(file, 'PNG')
    return file.getvalue()


@pytest.fixture(scope='module')
def readers(tmp_path_factory):
    """A folder, and what reads images, by name; each takes a path in the folder."""
    from mmseg.datasets import BaseSegDataset

    folder = tmp_path_factory.mktemp('images')
    register_modules('mmseg')
    pipeline = Compose([LoadImageFromFile()])

    def detector(path):
        """Check an image of a detector's data set; decode one that passes, as a training does."""
        dataset = type('Dataset', (), dict(ann_file='a.json', pipeline=pipeline))()
        check_dataset_images([path], 'data')
        check_image_sizes([(path, SIZE)] * 1000, dataset, 'data')
        pipeline(dict(img_path=path))

    def label_map(path):
        """Check a file that is an image's label map, and the image."""
        loading = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
        (folder / 'list.txt').write_text(os.path.splitext(os.path.basename(path))[0])
        dataset = BaseSegDataset(
            lazy_init=True,
            data_prefix=dict(img_path=str(folder), seg_map_path=str(folder)),
            img_suffix=os.path.splitext(path)[1],
            seg_map_suffix=os.path.splitext(path)[1],
            ann_file=str(folder / 'list.txt'),
            pipeline=loading,
            metainfo=dict(classes=('a', 'b', 'c')),
        )
        check_segmentation_dataset(dataset, 'train_dataloader.dataset')

    def picture(path):
        for image in predict.list_images([path]):
            predict._size(image)

    return folder, {'detector': detector, 'label map': label_map, 'predict': picture}


@pytest.fixture(scope='module')
def check(readers):
    """Check what becomes of the bytes of an image."""
    folder, found = readers
    with Confined(lambda item: found[item[0]](item[1]), folder) as confined:

        def check(reader, content, suffix):
            path = folder / f'hostile{suffix}'
            path.write_bytes(content)
            outcome = confined((reader, str(path)))
            assert outcome.is_right, outcome
            assert outcome.kind == 'accepted' or str(path) in outcome.text
            return outcome

        yield check
        confined.report('images')


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.tif', '.webp', '.ppm'])
def test_right_ones_pass(check, suffix):
    for reader in ('detector', 'predict'):
        file = io.BytesIO()
        Image.new('RGB', SIZE).save(file, FORMATS[suffix])
        assert check(reader, file.getvalue(), suffix).kind == 'accepted'
    assert check('label map', labels(), '.png').kind == 'accepted'


# Findings -------------------------------------------------------------------


def png(width, height, depth=8, colours=2, data=b'', extra=b''):
    """A PNG of some header and few pixels."""

    def chunk(name, content):
        body = name + content
        return struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))

    header = struct.pack('>IIBBBBB', width, height, depth, colours, 0, 0, 0)
    chunks = [
        (b'IHDR', header),
        *((b'iTXt', extra),) * bool(extra),
        (b'IDAT', zlib.compress(data)),
        (b'IEND', b''),
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*parts) for parts in chunks)


def tiff(width, height, tags=()):
    """A TIFF without pixels."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 2**32 - 1), *tags]
    body = b''.join(struct.pack('<HHII', *entry) for entry in sorted(entries))
    return b'II*\0' + struct.pack('<IH', 8, len(entries)) + body + b'\0' * 4


def gif(width, height):
    content = encoded('GIF', 'P')
    return content[:6] + struct.pack('<HH', width, height) + content[10:]


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
    ('content', 'suffix'),
    [
        (png(60_000, 60_000), '.png'),
        (png(32_000, 32_000, data=b'x' * 1000), '.png'),
        (png(2**31 - 1, 2**31 - 1, 16, 6), '.png'),
        (png(2**31 - 1, 1, 1, 0), '.png'),
        (png(40, 30, data=b'\0' * 5 * 10**7), '.png'),
        (png(40, 30, extra=b'a\0\1\0\0\0' + zlib.compress(b'\0' * 10**8)), '.png'),
        (gif(65_535, 65_535), '.gif'),
        (tiff(2**32 - 1, 2**32 - 1), '.tif'),
        (tiff(40, 30, [(34665, 4, 1, 8), (330, 4, 2**32 - 1, 8), (273, 4, 2**31, 8)]), '.tif'),
        (b'P6 99999 99999 255\n', '.ppm'),
        (b'P5\n405\n405\n405\n40 30\n255\n' + bytes(range(256)) * 1300, '.ppm'),
        (b'BM' + b'\xff' * 60, '.bmp'),
        (b'no image', '.jpg'),
        (b'', '.jpg'),
        (b'\0', '.png'),
    ],
)
def test_findings(check, reader, content, suffix):
    check(reader, content, suffix)


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('kind', ['pipe', 'folder', 'device', 'loop'])
def test_what_is_no_file(readers, reader, kind):
    folder, found = readers
    path = folder / 'no_file.jpg'
    put_no_file(path, kind)
    with Confined(lambda path: found[reader](path), folder) as confined:
        outcome = confined(str(path))
    assert outcome.kind == 'refused' and str(path) in outcome.text


# Fuzz -----------------------------------------------------------------------


def _fuzz(check, count, long):
    originals = {suffix: [encoded(kind), encoded(kind, 'L')] for suffix, kind in FORMATS.items()}
    originals['.png'] = [*originals['.png'], labels(), encoded('PNG', 'P')]

    @examples(count, long)
    @given(st.sampled_from(READERS), st.sampled_from(sorted(originals)), st.data())
    def images(reader, suffix, data):
        check(reader, data.draw(mutated(originals[suffix])), suffix)

    images()


def test_images(check):
    _fuzz(check, 30, long=False)


@pytest.mark.long
def test_many_images(check):
    _fuzz(check, 30, long=True)
