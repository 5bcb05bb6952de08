"""Every published detector and segmentor trains for a step and predicts; three of them at full size.

Reduced as reduced.py says: the code is the same, the data are generated in the layout of the public ones.
Mask2Former has a test file of its own.
"""

import json

import pytest
import torch
from mmseg.models import SegTTAModel
from one_step import build_model, predict_one, train_one_step
from panoptic_scenes import SCENES, write_ade20k, write_coco
from reduced import reduce

from mmnat.commands import test as run_test
from mmnat.config import read_config
from mmnat.config_files import project_folder
from mmnat.zoo import published_models

CONFIGS = [config for config, model in published_models().items() if model.architecture != 'Mask2Former']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('zoo')
    write_coco(root)
    write_ade20k(root)
    return root


@pytest.fixture
def in_data(data, monkeypatch):
    """The configs' paths begin with ``data/``."""
    monkeypatch.chdir(data)


def check_prediction(cfg, result):
    if cfg.default_scope == 'mmdet':
        found = result.pred_instances
        assert len(found.bboxes) == len(found.masks) == len(found.scores) and found.bboxes.isfinite().all()
        assert found.masks.shape[1:] == result.ori_shape
    else:
        assert result.pred_sem_seg.data.shape == (1, *result.ori_shape)
        assert result.pred_sem_seg.data.max() < 150 and result.seg_logits.data.isfinite().all()


@pytest.mark.parametrize(
    'config', [pytest.param(c, marks=() if c in CONFIGS[::12] else pytest.mark.long) for c in CONFIGS]
)
@pytest.mark.usefixtures('in_data')
def test_trains_a_step_and_predicts(config):
    cfg = reduce(read_config(str(project_folder() / config)))
    model = build_model(cfg)
    train_one_step(cfg, model)
    check_prediction(cfg, predict_one(cfg, model))


@pytest.mark.long
@pytest.mark.parametrize(
    'config',
    [
        'configs/nat/mask-rcnn_nat-tiny_fpn_amp-ms-crop-3x_coco.py',
        # Windows of dilation 28 reach over 196 tokens, where these images have 48x64.
        'configs/dinat/mask-rcnn_dinat-tiny_fpn_amp-ms-crop-3x_coco.py',
        'configs/dinat_s/dinat-s-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
    ],
)
@pytest.mark.usefixtures('in_data')
def test_full_size(config):
    whole = read_config(str(project_folder() / config))
    cfg = reduce(whole)
    # Backbone, neck and heads as published; few proposals, and the reduced size of batches of segmentors.
    kept = {name: cfg.model[name] for name in ('train_cfg', 'test_cfg', 'data_preprocessor')}
    cfg.model = dict(whole.model, **kept)
    cfg.model.backbone.init_cfg = None
    model = build_model(cfg)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == published_models()[config].params
    train_one_step(cfg, model)
    check_prediction(cfg, predict_one(cfg, model))


@pytest.mark.usefixtures('in_data')
def test_test_time_augmentation_of_segmentors(tmp_path, capsys):
    """As a user does: mmnat test --tta, on six sizes and their mirror images."""
    cfg = reduce(
        read_config(str(project_folder() / 'configs/nat/nat-mini_upernet_8xb2-amp-160k_ade20k-512x512.py'))
    )
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.dump(tmp_path / 'reduced.py')
    torch.save(build_model(cfg).state_dict(), tmp_path / 'weights.pth')
    seen = []
    merge = SegTTAModel.merge_preds

    def count(self, samples):
        seen.append([len(views) for views in samples])
        return merge(self, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegTTAModel, 'merge_preds', count)
        arguments = [
            tmp_path / 'reduced.py',
            tmp_path / 'weights.pth',
            '--tta',
            '--work-dir',
            tmp_path / 'work',
        ]
        run_test.main([str(argument) for argument in arguments])
    assert seen == [[12]] * SCENES['val']
    (log,) = (tmp_path / 'work').glob('*/*.json')
    assert 0 <= json.loads(log.read_text())['mIoU'] <= 100
