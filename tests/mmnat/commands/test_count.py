"""`mmnat count`: parameters and multiply-accumulates of configs."""

import json

import pytest

from mmnat.commands import count
from mmnat.config_files import project_folder

ROOT = project_folder()
MASK_RCNN = 'configs/nat/mask-rcnn_nat-mini_fpn_amp-ms-crop-3x_coco.py'
UPERNET = 'configs/nat/nat-mini_upernet_8xb2-amp-160k_ade20k-512x512.py'


def test_complexity_as_json(capsys):
    count.main([str(ROOT / MASK_RCNN), '--json'])
    (row,) = json.loads(capsys.readouterr().out)
    assert row['model'] == MASK_RCNN and (row['height'], row['width']) == (800, 1280)
    assert (row['published_params'], row['published_macs']) == (40, 225)
    assert row['params'] == pytest.approx(39.62, abs=0.01) and row['macs'] == pytest.approx(225, rel=0.01)
    assert sum(row['parts'].values()) == pytest.approx(row['macs'], abs=0.01)
    assert list(row['parts']) == ['backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head']


def test_complexity_of_another_size(capsys):
    count.main([str(ROOT / UPERNET), '--size', '256', '512'])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ['model', 'image', 'params', 'MACs', 'published', 'published', 'MACs']
    assert line.split()[1:] == ['256x512', '49.8', 'M', '112.3', 'G']


def test_complexity_of_a_config_from_elsewhere(tmp_path, capsys):
    path = tmp_path / 'retinanet.py'
    path.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    count.main([str(path), '--json'])
    (row,) = json.loads(capsys.readouterr().out)
    # mmdet's own table: 37.97 M parameters; 250.34 GMACs counted at 800x1333.
    assert row['params'] == pytest.approx(37.97, abs=0.01) and 'published_macs' not in row
    assert row['macs'] == pytest.approx(239.3, rel=0.01)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['configs/absent.py'], 'configs/absent.py does not exist'),
        ([], 'name configs, or give --all'),
        (['--all', MASK_RCNN], 'name configs, or give --all'),
        ([str(ROOT / MASK_RCNN), '--size', '0', '8'], '--size must be positive, got 0 8'),
    ],
)
def test_complexity_refuses(args, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        count.main(args)
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ("_base_ = 'mmdet::solo/solo_r50_fpn_1x_coco.py'", 'it is not known which parts to count'),
        ("_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'", 'it is not known which parts to count'),
        (
            "_base_ = 'mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py'",
            'it is not known which parts to count',
        ),
        ("_base_ = 'mmdet::_base_/default_runtime.py'", 'lacks model'),
        (
            f"_base_ = '{ROOT / MASK_RCNN}'\nmodel = dict(backbone=dict(archh='mini'))",
            "does not take argument 'archh'",
        ),
    ],
)
def test_complexity_refuses_configs(content, message, tmp_path, capsys):
    path = tmp_path / 'other.py'
    path.write_text(content)
    with pytest.raises(SystemExit):
        count.main([str(path)])
    assert message in capsys.readouterr().err
