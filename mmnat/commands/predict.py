"""Draw the predictions of a detector or a segmentor on images.

Takes every image that OpenCV reads, whatever its suffix. A picture has the name of its image, but the
suffix .jpg if the image's is not one of .jpg, .jpeg, .png, .bmp, .tif, .tiff and .webp. Equal names get a
number.
"""

import argparse
import copy
import os.path as osp
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.utils import scandir
from mmengine.visualization import Visualizer

from mmnat.atomic_file import atomic_write
from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.config import complete_palette, framework, read_config, require_fields, test_pipeline
from mmnat.errors import UserError, printable, report_user_errors
from mmnat.output_files import check_kept, output_paths
from mmnat.preflight.image_headers import read_header
from mmnat.preflight.images import check_image
from mmnat.preflight.models import build_model
from mmnat.preflight.weights import check_checkpoint

# Those in which OpenCV writes colours of 8 bits; browsers on Windows also save .jfif.
WRITTEN_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
THIN = 50  # as many times longer than wide, an image may vanish when it is scaled
IMAGE_SUFFIXES = (*WRITTEN_SUFFIXES, '.jfif')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        'mmnat predict', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', help='image files, or folders of them')
    parser.add_argument('--out-dir', default='predictions', help='the directory for the pictures')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='draw boxes and masks with at least this score'
    )
    parser.add_argument('--device', default=get_device(), help='for example cpu or cuda:0')
    return parser.parse_args(argv)


def list_images(inputs: Sequence[str]) -> list[str]:
    """List the image files that the arguments name; those of a folder are sorted.

    Args:
        inputs: Files and folders.

    Returns:
        The files, after a check that each is an image.
    """
    paths = []
    for name in inputs:
        if not osp.isdir(name):
            paths.append(name)
            continue
        found = sorted(scandir(name, IMAGE_SUFFIXES, recursive=True, case_sensitive=False))
        if not found:
            raise UserError(f'folder {name} has no images', 'name a folder with images')
        paths.extend(osp.join(name, image) for image in found)
    paths = list(dict.fromkeys(paths))
    for path in paths:
        check_image(path)
    return paths


def picture_paths(images: Sequence[str], out_dir: str) -> list[Path]:
    """Choose a file in ``out_dir`` for each image; equal names get a number.

    Args:
        images: The image files.
        out_dir: The output directory.

    Returns:
        The output files.
    """
    names: list[tuple[str, str]] = []
    taken = set()
    for image in images:
        stem, suffix = osp.splitext(osp.basename(image))
        if suffix.lower() not in WRITTEN_SUFFIXES:
            suffix = '.jpg'
        name, number = f'{stem}{suffix}', 1
        # Some file systems do not distinguish upper and lower case.
        while name.lower() in taken:
            number += 1
            name = f'{stem}_{number}{suffix}'
        taken.add(name.lower())
        names.append((f'image {image}', name))
    outputs = output_paths(Path(out_dir), names)
    check_kept(outputs, images, f'--out-dir {out_dir}')
    return outputs


def check_thin_images(cfg: Config, images: Sequence[str]) -> None:
    """Raise :class:`UserError` for an image that is so thin that the test pipeline scales it to nothing."""
    transforms = [t for t in test_pipeline(cfg) if 'Annotations' not in str(t['type'])]
    for path in images:
        width, height = _size(path)
        if width == height == 1 and framework(cfg) == 'mmseg':
            raise UserError(f'image {path} has a single pixel, which mmseg cannot draw', 'leave it out')
        if max(height, width) < THIN * min(height, width):
            continue
        try:
            Compose(transforms)(dict(img_path=path, img_id=0))
        except cv2.error as error:
            raise UserError(
                f'image {path} has {width}x{height} pixels, and the test pipeline scales it to nothing',
                'cut it into parts, or leave it out',
            ) from error


def _size(path: str) -> tuple[int, int]:
    header = read_header(path)
    if header is not None:
        return header.size
    height, width = mmcv.imread(path).shape[:2]  # a format that only OpenCV reads
    return width, height


def check_device(device: str) -> None:
    """Raise :class:`UserError` if a device is not available."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--device {device} is not available: {reason}', 'use cpu') from error


def build_predictor(cfg: Config, args: argparse.Namespace) -> Callable[[str], np.ndarray]:
    """Load the model.

    Args:
        cfg: The config.
        args: The options.

    Returns:
        A function that draws the predictions for an image file, as an RGB array.
    """
    if framework(cfg) == 'mmdet':
        from mmdet.apis import inference_detector as infer
        from mmdet.apis import init_detector as init

        options = dict(draw_gt=False, pred_score_thr=args.score_thr)
    else:
        from mmseg.apis import inference_model as infer
        from mmseg.apis import init_model as init

        # mmseg looks for the pipeline there. A config that was dumped, or has other names, lacks it, and
        # one that changed the pipeline of the data loader has the former one.
        cfg.test_pipeline = copy.deepcopy(test_pipeline(cfg))
        options = dict(draw_gt=False)
    if _names_classes(args.checkpoint):
        model = init(cfg, args.checkpoint, device=args.device)
    else:
        model = init(cfg, device=args.device)
        load_checkpoint(model, args.checkpoint, map_location='cpu')
        dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'lazy_init': True})
        model.dataset_meta = dataset.metainfo
    visualizer = _build_visualizer(cfg, model.dataset_meta)

    def predict(path: str) -> np.ndarray:
        image = mmcv.imread(path, channel_order='rgb')
        visualizer.add_datasample('prediction', image, infer(model, path), **options)
        return visualizer.get_image()

    return predict


def _names_classes(path: str) -> bool:
    # Bare weights do not name classes. Without names mmdet would use COCO's, and mmseg would fail.
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return not {'dataset_meta', 'CLASSES'}.isdisjoint(checkpoint.get('meta') or {})


def _build_visualizer(cfg: Config, dataset_meta: dict) -> Visualizer:
    # The pictures are written here, so the visualizer needs no backend.
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
    visualizer.dataset_meta = complete_palette(dataset_meta)
    return visualizer


def save_image(image: np.ndarray, path: Path) -> None:
    """Write an RGB image."""
    with atomic_write(path) as unfinished:
        mmcv.imwrite(mmcv.rgb2bgr(image), str(unfinished))


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Draw the predictions for each image, and print the paths of the pictures."""
    args = parse_args(argv)
    forbid_unsafe_loading()
    cfg = read_config(args.config)
    require_fields(cfg, 'model', 'visualizer', 'test_dataloader')
    images = list_images(args.images)
    outputs = picture_paths(images, args.out_dir)
    check_thin_images(cfg, images)
    check_device(args.device)
    check_checkpoint(args.checkpoint, build_model(cfg))
    predict = build_predictor(cfg, args)
    for image, output in zip(images, outputs, strict=True):
        save_image(predict(image), output)
        print(printable(str(output)), flush=True)
