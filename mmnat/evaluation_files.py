"""The files that a test writes for each image: pictures, and label maps of mmseg.

mmdet and mmseg name such a file like the image, without its folder, so that images of one name in several
folders overwrite each other. Here the files of such data sets go into folders of the same names.
"""

import contextlib
import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmnat.atomic_file import atomic_files
from mmnat.config import leaf_datasets
from mmnat.output_files import check_kept, output_paths


class ImageFiles:
    """The names of the files for the images of a test.

    Args:
        cfg: The config. Its test data set is built, without decoding an image.
    """

    def __init__(self, cfg: Config) -> None:
        entries = _entries(cfg)
        self._images = [entry['img_path'] for entry in entries]
        self._inputs = [*self._images, *(entry.get('seg_map_path') or '' for entry in entries)]
        self._names = _relative_names(dict.fromkeys(self._images))

    def check(self, folder: str, option: str, suffix: str | None = None) -> None:
        """Check that all files can be written below a folder.

        Args:
            folder: The folder. It need not exist.
            option: The option and its value that name it, for messages.
            suffix: That of the files; None for those of the images.

        Raises:
            UserError: If two would be one file, or one would lie outside of the folder or replace an image
                or a label map of the data set.
        """
        names = [(f'{option}: image {image}', name) for image, name in self._names.items()]
        check_kept(output_paths(Path(folder), names, suffix), filter(None, self._inputs), option)

    def sort(self, runner: Runner) -> None:
        """Have the runner put each file into the folder of its image, if two images have one name.

        Label maps appear complete or not at all.
        """
        for hook in runner.hooks:
            if getattr(hook, 'test_out_dir', None) and any(map(osp.dirname, self._names.values())):
                self._sort_pictures(hook)
        for metric in runner.test_evaluator.metrics:
            if getattr(metric, 'output_dir', None):
                self._sort_label_maps(metric)

    def _sort_pictures(self, hook: Hook) -> None:
        draw = hook.after_test_iter

        def after_test_iter(runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
            for output in outputs:
                with self._folder_of(output.img_path, hook, 'test_out_dir'):
                    draw(runner, batch_idx, data_batch, [output])

        hook.after_test_iter = after_test_iter

    def _sort_label_maps(self, metric: BaseMetric) -> None:
        process = metric.process

        def process_each(data_batch: dict, data_samples: Sequence[dict]) -> None:
            for sample in data_samples:
                with self._folder_of(sample['img_path'], metric, 'output_dir'):
                    folder = metric.output_dir
                    with atomic_files(Path(folder)) as metric.output_dir:
                        process(data_batch, [sample])

        metric.process = process_each

    @contextlib.contextmanager
    def _folder_of(self, image: str, writer: Any, attribute: str) -> Iterator[None]:
        root = getattr(writer, attribute)
        setattr(writer, attribute, osp.join(root, osp.dirname(self._names.get(image, ''))))
        try:
            yield
        finally:
            setattr(writer, attribute, root)


def _entries(cfg: Config) -> list[dict]:
    """What the test data sets know about their images."""
    entries = []
    for leaf in leaf_datasets(cfg.test_dataloader.dataset):
        dataset = DATASETS.build(leaf)
        for index in range(len(dataset)):
            entry = dataset.get_data_info(index)
            if isinstance(entry, dict) and isinstance(entry.get('img_path'), str):
                entries.append(entry)
    return entries


def _relative_names(paths: Iterable[str]) -> dict[str, str]:
    """Name each path without its folder; if two names are equal, all relative to their common folder."""
    paths = list(paths)
    names = {path: osp.basename(path) for path in paths}
    if len({name.casefold() for name in names.values()}) == len(paths):
        return names
    common = osp.commonpath([osp.dirname(osp.abspath(path)) for path in paths])
    return {path: osp.relpath(osp.abspath(path), common) for path in paths}
