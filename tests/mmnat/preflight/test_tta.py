"""Test-time augmentation: what mmdet cannot merge."""

import pytest

pytest.importorskip('mmdet')

from mmdet.models import DetTTAModel
from mmengine.config import Config
from torch import nn

from mmnat.config import register_modules
from mmnat.errors import UserError
from mmnat.preflight.tta import check_tta


@pytest.fixture(autouse=True)
def _registered():
    register_modules('mmdet')


class MergesMasks(DetTTAModel):
    """A user's own."""

    def _merge_single_sample(self, data_samples):
        return data_samples[0]


class OtherName(DetTTAModel):
    """A user's own that merges nothing else."""


class RTMDetInsHead(nn.Module):
    """As mmdet's: predicts masks, too."""


def model(**parts):
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def with_mask_head(mask_head):
    return model(roi_head=model(bbox_head=nn.Identity(), mask_head=mask_head))


def check(module, kind='DetTTAModel', transform='RandomFlip'):
    flip = dict(type=transform, prob=1.0)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[[flip]])]
    check_tta(Config(dict(tta_model=dict(type=kind), tta_pipeline=pipeline)), module)


@pytest.mark.parametrize('kind', ['DetTTAModel', DetTTAModel, OtherName])
@pytest.mark.parametrize(
    ('module', 'field'),
    [
        (with_mask_head(nn.Identity()), r'roi_head\.mask_head'),
        (model(mask_head=nn.Identity()), 'mask_head'),
        (model(panoptic_head=nn.Identity()), 'panoptic_head'),
        (model(bbox_head=RTMDetInsHead()), 'bbox_head'),
    ],
)
def test_masks(module, field, kind):
    with pytest.raises(UserError, match=rf'merges boxes, not the masks that model\.{field} predicts'):
        check(module, kind)


def test_remedy():
    option = (
        r'or test only its boxes: --cfg-options model\.roi_head\.mask_head=None test_evaluator\.metric=bbox'
    )
    with pytest.raises(UserError, match=option):
        check(with_mask_head(nn.Identity()))
    with pytest.raises(UserError, match=r'leave out --tta$'):
        check(model(mask_head=nn.Identity()))


def test_what_can_be_merged():
    check(with_mask_head(None))
    check(model(bbox_head=nn.Identity()))
    check(with_mask_head(nn.Identity()), MergesMasks)


def test_unregistered_types():
    with pytest.raises(
        UserError, match=r"tta_model\.type = 'DetTTAModl' is not registered \(nearest: DetTTA"
    ):
        check(with_mask_head(None), 'DetTTAModl')
    with pytest.raises(UserError, match=r'tta_pipeline\[1\]\.transforms\[0\]\[0\]\.type'):
        check(with_mask_head(None), transform='RandomFlop')
