"""The messages that docs/troubleshooting.md quotes are those that users get."""

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hooks import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from tiny_training import draw_data, write_configs

from mmnat.__main__ import main
from natten_ops import na2d

PAGE = (ROOT / 'docs/troubleshooting.md').read_text(encoding='utf-8')
FORMER_CONFIG = "model = dict(type='MaskRCNN', pretrained='nat_mini.pth')\ndata = dict(samples_per_gpu=2)\n"


class Harmful:
    """What a pickle of it would do to whoever loads it."""

    def __reduce__(self):
        return os.system, ('true',)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Data, configs and files that are not what they should be, in the current folder."""
    monkeypatch.chdir(tmp_path)
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, Path('data'))
    Path('former.py').write_text(FORMER_CONFIG)
    Path('cut_short.pth').write_bytes(b'PK\x03\x04')
    Path('harmful.pth').write_bytes(pickle.dumps({'state_dict': Harmful()}, protocol=2))
    torch.save({'state_dict': {'backbone.conv1.weight': torch.zeros(64, 3, 7, 7)}}, 'resnet.pth')
    Path('data/wrong_labels').mkdir()
    for name in range(4):
        cv2.imwrite(f'data/wrong_labels/{name}.png', np.full((64, 64), 7, np.uint8))
    text = Path('detector.py').read_text()
    classes = "classes=('disc', 'square')"
    Path('string.py').write_text(text.replace(classes, "classes=('disc')"))
    Path('other_names.py').write_text(text.replace(classes, "classes=('circle', 'square')"))
    Path('other_order.py').write_text(text.replace(classes, "classes=('square', 'disc')"))
    Path('swin_arguments.py').write_text(text.replace('embed_dim=32', 'embed_dims=32'))
    return tmp_path


TRAIN = ('train', 'detector.py', '--cfg-options')
CASES = {
    'config': ('train', 'mask-rcnn_nat-mini_fpn_3x_coco.py'),
    'former config': ('train', 'former.py'),
    'data_root': (*TRAIN, 'train_dataloader.dataset.dataset.data_root=photos/'),
    'ann_file': (*TRAIN, 'train_dataloader.dataset.dataset.ann_file=train.json'),
    'names of classes': ('train', 'other_names.py'),
    'order of classes': ('train', 'other_order.py'),
    'classes are a string': ('train', 'string.py'),
    'number of classes': (*TRAIN, 'model.roi_head.bbox_head.num_classes=80'),
    'values of label maps': (
        *('train', 'segmentor.py', '--cfg-options'),
        'train_dataloader.dataset.data_prefix.seg_map_path=wrong_labels',
    ),
    'type': (*TRAIN, 'model.backbone.type=NATT'),
    'argument': ('train', 'swin_arguments.py'),
    'checkpoint': ('test', 'detector.py', 'epoch_12.pth'),
    'other model': ('test', 'detector.py', 'resnet.pth'),
    'cut short': ('test', 'detector.py', 'cut_short.pth'),
    'harmful': ('test', 'detector.py', 'harmful.pth'),
    'resume': ('train', 'detector.py', '--resume'),
    'image': ('predict', 'detector.py', 'epoch_12.pth', 'photo.jpg'),
    'learning rates by layer': (
        *TRAIN,
        'optim_wrapper.constructor=LearningRateDecayOptimizerConstructor',
    ),
    'work directory': ('train', 'detector.py', '--work-dir', 'detector.py'),
    'masks': (
        *('test', 'detector.py', 'epoch_12.pth', '--tta', '--cfg-options'),
        'tta_model.type=DetTTAModel',
        'tta_pipeline=[]',
    ),
    'swap': ('swap', 'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py', '--backbone', 'nat_tiny'),
    'convert': ('convert', 'resnet.pth', 'nat.pth'),
    'no such config': ('configs', 'yolo'),
}


@pytest.mark.parametrize('case', CASES)
def test_message_is_quoted(case, folder, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(CASES[case])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1].replace(str(folder), '/home/me')
    assert message.startswith('error: ')
    assert message in PAGE


def test_window_larger_than_the_map_is_quoted():
    query = torch.zeros(1, 10, 20, 1, 8)
    with pytest.raises(ValueError) as error:
        na2d(query, query, query, kernel_size=7, dilation=2)
    assert f'ValueError: {error.value}' in PAGE


def test_every_quoted_error_is_tested():
    quoted = [line for line in PAGE.splitlines() if line.startswith('error: ')]
    assert len(quoted) == len(set(quoted)) == len(CASES)
