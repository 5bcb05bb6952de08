"""The configs of the pages on own data read data in the layout that the pages describe."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hooks import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.runner import Runner
from tiny_training import draw_data

from mmnat.config import read_config
from mmnat.preflight.checks import check_training
from mmnat.preflight.models import build_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the pages: images, annotations and label maps in data/."""
    monkeypatch.chdir(tmp_path)
    draw_data(Path('data'))
    coco = json.loads(Path('data/coco.json').read_text())
    coco['categories'] = [dict(id=7, name='date'), dict(id=3, name='fig'), dict(id=9, name='hazelnut')]
    for split in ('train', 'val'):
        Path(f'data/{split}.json').write_text(json.dumps(coco))
        for kind, source in (('images', 'images'), ('label_maps', 'labels')):
            folder = Path('data', kind, split)
            folder.mkdir(parents=True)
            for file in Path('data', source).glob('*.*'):
                shutil.copy(file, folder)
    return tmp_path


def write_config(page, title, name):
    """Write a config that is on a page; returns its path."""
    text = (ROOT / 'docs/own_data' / page).read_text(encoding='utf-8')
    (config,) = re.findall(rf'^```python title="{re.escape(title)}"\n(.*?)^```$', text, re.M | re.S)
    with open(name, 'a') as file:
        file.write(config)
    return name


def check(path):
    cfg = read_config(path)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    check_training(cfg, build_model(cfg))
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    return cfg, batch['data_samples'][0]


def test_detector(folder):
    cfg, sample = check(write_config('detector.md', 'detector.py', 'detector.py'))
    assert cfg.val_dataloader.dataset.ann_file == 'val.json'
    assert sample.metainfo['img_shape'][1] > 400  # the base's scale is 400x300
    assert len(sample.gt_instances.masks) == len(sample.gt_instances.bboxes) == 2


def test_detector_of_boxes(folder):
    write_config('detector.md', 'detector.py', 'boxes.py')
    cfg, sample = check(write_config('detector.md', 'changes in detector.py', 'boxes.py'))
    assert cfg.model.type == 'FasterRCNN' and cfg.val_evaluator.metric == 'bbox'
    assert 'masks' not in sample.gt_instances and len(sample.gt_instances.bboxes) == 2


def test_segmentor(folder):
    cfg, sample = check(write_config('segmentor.md', 'segmentor.py', 'segmentor.py'))
    assert cfg.model.decode_head.num_classes == 11
    assert set(sample.gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 255}
