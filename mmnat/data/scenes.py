"""Generate a small data set of synthetic scenes for demonstrations and tests.

The same scenes are annotated twice:

- COCO instance segmentation: ``train/*.jpg``, ``val/*.jpg`` and
  ``annotations/instances_{train,val}.json``. Masks are run-length encoded, so that area, box and
  mask agree with the visible pixels even where an object is occluded or has a hole.
- ADE20K-style label maps: ``annotations/{train,val}/*.png``. Label ``k`` is
  ``SEGMENT_CLASSES[k - 1]``; 0 is the label that ``reduce_zero_label=True`` ignores, and no pixel
  has it.

Objects are told apart by shape. Most objects of a class also share a hue, but only most: color alone
is not enough, and texture is drawn alike for all. Thin lines, dots and blobs are clutter and belong to
the background they lie on.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError

OBJECT_CLASSES = ('disc', 'square', 'triangle', 'star', 'ring')
OBJECT_HUES = (0, 36, 72, 108, 144)  # that most objects of a class are near to, of 180
OBJECT_PALETTE = [(220, 20, 60), (0, 120, 255), (255, 170, 0), (160, 32, 240), (0, 200, 120)]
STUFF_CLASSES = ('sky', 'grass', 'sand', 'water')
STUFF_PALETTE = [(135, 206, 235), (80, 130, 50), (210, 180, 120), (40, 80, 140)]
SEGMENT_CLASSES = STUFF_CLASSES + OBJECT_CLASSES
SEGMENT_PALETTE = STUFF_PALETTE + OBJECT_PALETTE

GENERATOR = 'make_demo_data'  # in the manifest: it tells the data set from other folders
VERSION = 1  # of what is drawn: raise it when the same arguments yield other files
MANIFEST = 'dataset.json'
SPLITS = ('train', 'val')

IMAGE_SIDES = (128, 224)
OBJECT_COUNTS = (2, 6)
OBJECT_SIZES = (40, 96)  # diameter of the circle around the shape
HUE_SHARE = 0.7  # of the objects that are near the hue of their class
HUE_SPREAD = 10
MIN_VISIBLE_SHARE = 0.5  # of the whole shape, inside the image and not occluded
MIN_VISIBLE_PIXELS = 60
JPEG_QUALITY = 92

TEXTURES = ('plain', 'gradient', 'stripes', 'checker', 'noise')
STUFF_COLORS = np.array(  # BGR
    [(225, 190, 140), (60, 120, 80), (130, 175, 200), (140, 100, 50)], np.float32
)


@dataclass(frozen=True)
class Scene:
    """An image with what is to be seen on it.

    Attributes:
        image: The picture, BGR, uint8.
        stuff: Index into ``STUFF_CLASSES`` of the background of each pixel.
        instances: Index into ``categories`` of each pixel's object, -1 for background.
        categories: Index into ``OBJECT_CLASSES`` of each object.
    """

    image: np.ndarray
    stuff: np.ndarray
    instances: np.ndarray
    categories: list[int]


def make_demo_data(out: Path, train: int = 400, val: int = 80, seed: int = 0) -> None:
    """Write the data set to a folder, or leave the folder alone if it holds the data set already.

    The folder appears complete or not at all.

    Args:
        out: The folder to make.
        train: Number of training images.
        val: Number of validation images.
        seed: Seed of the scenes. A scene depends on the seed, its split and its index only.

    Raises:
        UserError: If the folder holds something else or is a file, or if a number is out of range.
    """
    if train < 1 or val < 1 or seed < 0:
        raise UserError(
            f'demo data need at least one image a split and a seed from 0 on, got train {train}, val {val},'
            f' seed {seed}',
            'correct them',
        )
    out = Path(out).resolve()
    counts = {'train': train, 'val': val}
    manifest = {'generator': GENERATOR, 'version': VERSION, **counts, 'seed': seed}
    if _is_up_to_date(out, manifest):
        print(f'{out}: already there')
        return
    with atomic_write(out) as unfinished:
        for split, count in counts.items():
            _write_split(unfinished, split, count, seed)
        _write_json(unfinished / MANIFEST, manifest)
    print(f'{out}: {train} training and {val} validation images')


def _is_up_to_date(out: Path, manifest: dict) -> bool:
    """Whether the folder holds the wanted data set already.

    Args:
        out: The folder.
        manifest: The manifest of the wanted data set.

    Returns:
        True for the wanted data set, False for no folder or an empty one.

    Raises:
        UserError: If the folder holds something else, or is a file.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f'{out} is not a folder', 'remove or rename it')
    if not any(out.iterdir()):
        return False
    try:
        found = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        found = None
    if found == manifest:
        return True
    if isinstance(found, dict) and found.get('generator') == GENERATOR:
        raise UserError(f'{out} holds another demo data set, {found}', 'remove or rename it')
    raise UserError(f'{out} holds something that is not a demo data set', 'remove or rename it')


def _write_split(root: Path, split: str, count: int, seed: int) -> None:
    """Write the images, label maps and COCO annotations of a split."""
    image_dir = root / split
    label_dir = root / 'annotations' / split
    image_dir.mkdir(parents=True)
    label_dir.mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        scene = make_scene(seed, split, index)
        stem = f'{index:06d}'
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        _write_image(image_dir / f'{stem}.jpg', scene.image, quality)
        _write_image(label_dir / f'{stem}.png', label_map(scene), [])
        height, width = scene.instances.shape
        image_id = index + 1
        images.append(
            {
                'id': image_id,
                'file_name': f'{stem}.jpg',
                'width': width,
                'height': height,
                'license': 1,
            }
        )
        annotations += [
            {'id': number, 'image_id': image_id, **annotation}
            for number, annotation in enumerate(_coco_objects(scene), len(annotations) + 1)
        ]
    _write_json(
        root / 'annotations' / f'instances_{split}.json',
        {
            'info': {'description': f'Synthetic shapes, {split}', 'version': str(VERSION)},
            'licenses': [{'id': 1, 'name': 'CC0 1.0', 'url': ''}],
            'images': images,
            'annotations': annotations,
            'categories': [
                {'id': index, 'name': name, 'supercategory': 'shape'}
                for index, name in enumerate(OBJECT_CLASSES, start=1)
            ],
        },
    )


def _write_image(path: Path, image: np.ndarray, parameters: list[int]) -> None:
    if not cv2.imwrite(str(path), image, parameters):
        raise OSError(f'cannot write {path}')


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content) + '\n')


def _coco_objects(scene: Scene) -> list[dict]:
    """Return the COCO annotations of a scene's objects, without ids."""
    annotations = []
    for index, category in enumerate(scene.categories):
        mask = np.asfortranarray(scene.instances == index, dtype=np.uint8)
        rle = mask_utils.encode(mask)
        annotations.append(
            {
                'category_id': category + 1,
                'bbox': mask_utils.toBbox(rle).tolist(),
                'area': int(mask_utils.area(rle)),
                'iscrowd': 0,
                'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode()},
            }
        )
    return annotations


def label_map(scene: Scene) -> np.ndarray:
    """Return a scene's semantic labels, ``SEGMENT_CLASSES`` from 1 on."""
    labels = scene.stuff + 1
    for index, category in enumerate(scene.categories):
        labels[scene.instances == index] = len(STUFF_CLASSES) + category + 1
    return labels


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Draw a scene.

    Args:
        seed: Seed of the data set.
        split: One of ``SPLITS``.
        index: Index of the scene in its split.

    Returns:
        The scene, the same one for the same arguments.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = (int(side) for side in rng.integers(*IMAGE_SIDES, size=2, endpoint=True))
    stuff = _draw_regions(rng, height, width)
    image = _paint_stuff(rng, stuff)
    _add_clutter(rng, image)
    instances, categories = _place_objects(rng, height, width)
    for current, category in enumerate(categories):
        _paint_object(rng, image, instances == current, category)
    return Scene(_photograph(rng, image), stuff, instances, categories)


def _noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell_y: float,
    cell_x: float,
) -> np.ndarray:
    """Return noise about zero, mostly within 1 of it, with grains of about the given size."""
    height, width = shape
    grid = (int(height / cell_y) + 2, int(width / cell_x) + 2)
    noise = rng.standard_normal(grid, dtype=np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the pixels, to be broadcast."""
    return np.mgrid[:height, :1][0].astype(np.float32), np.arange(width, dtype=np.float32)[None]


def _draw_regions(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Divides the image into three or four regions of different stuff with wavy borders."""
    kinds = rng.permutation(len(STUFF_CLASSES))[: rng.integers(3, 4, endpoint=True)]
    rows, columns = _grid(height, width)
    sites = _spread_points(rng, len(kinds), height, width)
    distances = [
        np.hypot(rows - row, columns - column) + 6 * _noise(rng, (height, width), 24, 24)
        for row, column in sites
    ]
    return kinds[np.argmin(distances, axis=0)].astype(np.uint8)


def _spread_points(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Return the most evenly spread of a few sets of random points."""
    candidates = rng.uniform(0.1, 0.9, size=(12, count, 2)) * (height, width)
    gaps = np.linalg.norm(candidates[:, :, None] - candidates[:, None], axis=-1)
    gaps[:, range(count), range(count)] = np.inf
    return candidates[gaps.min(axis=(1, 2)).argmax()]


def _paint_stuff(rng: np.random.Generator, stuff: np.ndarray) -> np.ndarray:
    """Paints the background: each kind of stuff has its own texture and range of colors."""
    shape = stuff.shape
    image = np.zeros((*shape, 3), np.float32)
    for kind in np.unique(stuff):
        relief = STUFF_RELIEFS[STUFF_CLASSES[kind]](rng, shape)
        color = STUFF_COLORS[kind] + rng.uniform(-22, 22, 3)
        region = stuff == kind
        image[region] = (color + relief[..., None])[region]
    return image


def _sky_relief(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    slope = rng.uniform(-30, 30) * (_grid(*shape)[0] / shape[0] - 0.5)
    return slope + 14 * np.maximum(_noise(rng, shape, 16, 32), 0)


def _grass_relief(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return 22 * _noise(rng, shape, 7, 1.7) + 8 * _noise(rng, shape, 30, 30)


def _sand_relief(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return 13 * _noise(rng, shape, 1, 1) + 10 * _noise(rng, shape, 14, 40)


def _water_relief(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    phase = _grid(*shape)[0] * (2 * np.pi / rng.uniform(6, 10))
    return 20 * np.sin(phase + 0.9 * _noise(rng, shape, 14, 14))


STUFF_RELIEFS = {
    'sky': _sky_relief,
    'grass': _grass_relief,
    'sand': _sand_relief,
    'water': _water_relief,
}


def _random_colors(rng: np.random.Generator, count: int, hue: int | None = None) -> np.ndarray:
    """Return BGR colors near a hue, or of any, none of them nearly black."""
    hsv = rng.integers((0, 50, 80), (180, 256, 256), size=(1, count, 3))
    if hue is not None:
        hsv[..., 0] = (hue + rng.integers(-HUE_SPREAD, HUE_SPREAD + 1, size=(1, count))) % 180
        hsv[..., 1] = np.maximum(hsv[..., 1], 120)
    hsv = hsv.astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0].astype(np.float32)


def _add_clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw thin lines, dots and small blobs, all smaller than any object."""
    height, width = image.shape[:2]
    for color in _random_colors(rng, int(rng.integers(1, 5))).tolist():
        start, end = rng.integers(0, (width, height), size=(2, 2)).tolist()
        cv2.line(image, start, end, color, int(rng.integers(1, 3)))
    for color in _random_colors(rng, int(rng.integers(4, 16))).tolist():
        center = rng.integers(0, (width, height)).tolist()
        cv2.circle(image, center, int(rng.integers(1, 3)), color, cv2.FILLED)
    for color in _random_colors(rng, int(rng.integers(2, 8))).tolist():
        angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
        radii = rng.uniform(1.5, 6, size=angles.shape)
        outline = _polar(angles, radii) + rng.integers(0, (width, height))
        cv2.fillPoly(image, [np.rint(outline).astype(np.int32)], color)


def _polar(angles: np.ndarray, radii: np.ndarray | float) -> np.ndarray:
    """Return the (x, y) of points given by angle and radius."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.expand_dims(radii, -1)


def _place_objects(
    rng: np.random.Generator,
    height: int,
    width: int,
) -> tuple[np.ndarray, list[int]]:
    """Places objects one over another.

    A place where the new object would hide too much of another one, or lie too far outside the
    image, is not used, so that every object that shows at all is worth its annotation.

    Returns:
        The map of the objects and their classes, as in :class:`Scene`.
    """
    count = rng.integers(*OBJECT_COUNTS, endpoint=True)
    instances: np.ndarray = np.full((height, width), -1, np.int8)
    categories: list[int] = []
    wanted_areas: list[float] = []
    for _ in range(30 * count):
        category = int(rng.integers(len(OBJECT_CLASSES)))
        mask, whole_area = _draw_shape(rng, OBJECT_CLASSES[category], height, width)
        trial = np.where(mask, np.int8(len(categories)), instances)
        wanted = [*wanted_areas, max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * whole_area)]
        visible = np.bincount(trial[trial >= 0], minlength=len(wanted))
        if np.any(visible < wanted):
            continue
        instances, wanted_areas = trial, wanted
        categories.append(category)
        if len(categories) == count:
            break
    return instances, categories


def _draw_shape(
    rng: np.random.Generator,
    name: str,
    height: int,
    width: int,
) -> tuple[np.ndarray, int]:
    """Draw a shape of random size, rotation and place.

    Returns:
        The shape's mask inside the image, and its area including what lies outside.
    """
    margin = OBJECT_SIZES[1] // 2 + 1
    radius = np.exp(rng.uniform(*np.log(OBJECT_SIZES))) / 2
    center = rng.uniform((0.06, 0.06), (0.94, 0.94)) * (width, height) + margin
    canvas = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    outlines = [outline + center for outline in _outlines(rng, name, radius)]
    fixed_point = [np.rint(outline * 16).astype(np.int32) for outline in outlines]
    cv2.fillPoly(canvas, fixed_point, 1, cv2.LINE_8, shift=4)
    return canvas[margin:-margin, margin:-margin] > 0, int(canvas.sum())


def _outlines(rng: np.random.Generator, name: str, radius: float) -> list[np.ndarray]:
    """Return the outlines of a shape round the origin; a second one is a hole."""
    turn = rng.uniform(0, 2 * np.pi)
    circle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if name == 'disc':
        return [_polar(circle, radius)]
    if name == 'ring':
        return [_polar(circle, radius), _polar(circle, radius * rng.uniform(0.45, 0.62))]
    if name == 'star':
        spikes = np.tile([1, rng.uniform(0.38, 0.46)], 5)
        return [_polar(circle[:10] * 4.8 + turn, radius * spikes)]
    corners = {'triangle': 3, 'square': 4}[name]
    return [_polar(np.arange(corners) * (2 * np.pi / corners) + turn, radius)]


def _paint_object(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, category: int) -> None:
    """Paints the visible part of an object in a color that stands out from what is there."""
    hue = OBJECT_HUES[category] if rng.random() < HUE_SHARE else None
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    patch = image[top : top + height, left : left + width]
    mask = mask[top : top + height, left : left + width]
    candidates = _random_colors(rng, 6, hue)
    contrasts = np.linalg.norm(candidates - patch[mask].mean(axis=0), axis=1)
    base = candidates[np.minimum(contrasts, 80).argmax()]
    other = base + rng.uniform(0.2, 0.5) * (_random_colors(rng, 1)[0] - base)
    mix = _texture(rng, TEXTURES[rng.integers(len(TEXTURES))], height, width)[..., None]
    paint = base + mix * (other - base)
    patch[mask] = (paint * _shading(rng, mask)[..., None])[mask]


def _texture(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    """Return how much of an object's second color is where, from 0 to 1."""
    if name == 'plain':
        return np.zeros((height, width), np.float32)
    if name == 'noise':
        cell = rng.uniform(1.5, 4)
        return np.clip(0.5 + 0.4 * _noise(rng, (height, width), cell, cell), 0, 1)
    across, along = _turned_grid(rng, height, width)
    if name == 'gradient':
        return (across - across.min()) / np.ptp(across)
    period = rng.uniform(6, 12)
    stripes = across % period > period / 2
    if name == 'checker':
        stripes ^= along % period > period / 2
    return stripes.astype(np.float32)


def _turned_grid(
    rng: np.random.Generator,
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels' coordinates in a randomly turned frame."""
    rows, columns = _grid(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    return columns * cosine + rows * sine, rows * cosine - columns * sine


def _shading(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Return the light on an object: from one side, and less of it at the rim."""
    across, _ = _turned_grid(rng, *mask.shape)
    slope = rng.uniform(0.05, 0.3) * ((across - across.min()) / np.ptp(across) - 0.5)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return (1 + slope) * (1 - rng.uniform(0.2, 0.45) * np.exp(-depth / 2))


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add what a camera does: light, blur and noise."""
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.9))
    contrast, brightness = rng.uniform(0.8, 1.15), rng.uniform(-18, 18)
    image = (image - 128) * contrast + 128 + brightness
    image += rng.uniform(1, 7) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
