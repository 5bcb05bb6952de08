"""The published models: their configs against the released recipes; the tools that count and check them.

data/published_recipes.json holds the arguments of the configs that were released with the papers
(SHI-Labs/Neighborhood-Attention-Transformer), with the results in its READMEs.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import check_zoo
import pytest
from zoo_tables import replace_table

from mmnat import models
from mmnat.commands import count
from mmnat.config import read_config
from mmnat.config_files import project_folder
from mmnat.errors import UserError
from mmnat.zoo import published_models

ROOT = project_folder()
RECIPES = json.loads((Path(__file__).parents[1] / 'data/published_recipes.json').read_text())
MASK_RCNN = 'configs/nat/mask-rcnn_nat-mini_fpn_amp-ms-crop-3x_coco.py'
UPERNET = 'configs/nat/nat-mini_upernet_8xb2-amp-160k_ade20k-512x512.py'


def config_of(recipe):
    """The config file of a released one."""
    folder = recipe['family']
    backbone = f'{folder.replace("_", "-")}-{recipe["variant"]}'
    amp = 'amp-' if recipe['mixed_precision'] else ''
    if recipe['task'] == 'detection':
        kind = recipe['architecture'].lower().replace(' ', '-').replace('r-cnn', 'rcnn')
        return f'configs/{folder}/{kind}_{backbone}_fpn_{amp}ms-crop-3x_coco.py'
    size = 640 if recipe['variant'] == 'large' else 512
    return f'configs/{folder}/{backbone}_upernet_8xb2-{amp}160k_ade20k-{size}x{size}.py'


def as_lists(value):
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: recipe['name'])
def test_config_is_the_released_recipe(recipe):
    cfg = read_config(str(ROOT / config_of(recipe)))
    published = published_models()[config_of(recipe)]
    ours, theirs = dict(cfg.model.backbone), recipe['backbone']
    arch = getattr(models, ours['type']).arch_zoo[ours.pop('arch')]
    settings = {**arch, 'kernel_size': 7, 'layer_scale': None, **ours}
    for name, value in theirs.items():
        expected = dict(qkv_bias=True, drop_rate=0.0, attn_drop_rate=0.0, frozen_stages=-1, patch_norm=True)
        if name in expected:  # our defaults, or what we always do
            assert value == expected[name] and name not in ours
        else:
            assert as_lists(settings[name]) == value, name
    assert settings['layer_scale'] == theirs.get('layer_scale')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=recipe['pretrained'])
    assert published.weights == recipe['checkpoint']

    optimizer = {name: as_lists(value) for name, value in cfg.optim_wrapper.optimizer.items()}
    released = dict(recipe['optimizer'])
    no_decay = released.pop('no_decay_keys')
    assert optimizer == released
    # DiNAT_s has no absolute position embedding that a key could be about.
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert {*keys} == {*no_decay} - {'absolute_pos_embed'}
    assert all(key == dict(decay_mult=0.0) for key in keys.values())
    wrapper = 'AmpOptimWrapper' if recipe['mixed_precision'] else 'OptimWrapper'
    assert cfg.optim_wrapper.type == wrapper
    assert cfg.auto_scale_lr.base_batch_size == recipe['batch_size_total'] == 16
    assert cfg.train_dataloader.batch_size == 2

    results = {name: value for metrics in published.results.values() for name, value in metrics.items()}
    names = {'bbox_mAP': 'box AP', 'segm_mAP': 'mask AP', 'mIoU_ms': 'mIoU(ms+flip)', 'mIoU': 'mIoU'}
    assert results == {names[k]: v for k, v in recipe['published'].items() if k in names}
    assert published.params == recipe['published']['params_m']
    assert published.macs == recipe['published']['gmacs']
    (check_detector if recipe['task'] == 'detection' else check_segmentor)(cfg, recipe)


def check_detector(cfg, recipe):
    assert cfg.model.neck.in_channels == recipe['neck_in_channels']
    schedule = recipe['schedule']
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == steps.end == schedule['epochs']
    assert steps.milestones == schedule['lr_steps'] and steps.gamma == 0.1
    assert (warmup.end, warmup.start_factor) == (schedule['warmup_iters'], schedule['warmup_ratio'])
    if recipe['architecture'] == 'Cascade Mask R-CNN':
        heads = cfg.model.roi_head.bbox_head
        assert [head.type for head in heads] == ['ConvFCBBoxHead'] * 3
        assert {head.loss_bbox.type for head in heads} == {'GIoULoss'}
        stds = [head.bbox_coder.target_stds[0] for head in heads]
        thresholds = [rcnn.assigner.pos_iou_thr for rcnn in cfg.model.train_cfg.rcnn]
        assert (stds, thresholds) == ([0.1, 0.05, 0.033], [0.5, 0.6, 0.7])


def check_segmentor(cfg, recipe):
    assert cfg.model.decode_head.in_channels == recipe['head_in_channels']
    assert cfg.model.auxiliary_head.in_channels == recipe['aux_in_channels']
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 150
    schedule = recipe['schedule']
    warmup, poly = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == poly.end == schedule['iters']
    assert (poly.power, poly.eta_min) == (schedule['power'], schedule['min_lr'])
    assert (warmup.end, warmup.start_factor) == (schedule['warmup_iters'], schedule['warmup_ratio'])
    side = 640 if recipe['variant'] == 'large' else 512
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomCrop')
    assert tuple(crop.crop_size) == tuple(cfg.model.data_preprocessor.size) == (side, side)
    sizes, flips = cfg.tta_pipeline[1].transforms[:2]
    assert [min(resize.scale) / side for resize in sizes] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert [flip.prob for flip in flips] == [0.0, 1.0]


@pytest.mark.long
def test_configs_metafiles_and_readmes_agree(capsys):
    check_zoo.main([])
    assert '42 models and 16 backbones agree' in capsys.readouterr().out


def test_disagreement_is_found(monkeypatch):
    model = published_models()[MASK_RCNN]
    cfg = read_config(str(ROOT / MASK_RCNN))
    assert list(check_zoo.check_recipe(model, cfg)) == []
    cfg.auto_scale_lr.base_batch_size = 32
    cfg.model.backbone.arch = 'tiny'
    assert [p.split(', ')[0] for p in check_zoo.check_recipe(model, cfg)] == [
        f'{MASK_RCNN} has batch_size 32',
        f'{MASK_RCNN} has backbone NAT-Tiny',
    ]
    row = dict(model='m', params=40.4, macs=222.8, published_params=40.0, published_macs=225.0)
    assert list(check_zoo.check_complexity(row, 0.01, exact_params=True)) == []
    row.update(params=40.6, macs=222.7)
    assert len(list(check_zoo.check_complexity(row, 0.01, exact_params=True))) == 2

    other = dataclasses.replace(model, config='configs/nat/absent.py', name='other')
    monkeypatch.setattr(check_zoo, 'published_models', lambda: {other.config: other})
    problems = list(check_zoo.check_index())
    assert f'{MASK_RCNN} is in no metafile' in problems
    assert any('which does not exist' in p for p in problems) and any('another name' in p for p in problems)


def test_outdated_table_is_found():
    text = 'a\n<!-- models -->\nold\n<!-- end of models -->\nb'
    path = Path('README.md')
    assert replace_table(text, 'models', 'new', path) == text.replace('old', 'new')
    with pytest.raises(UserError, match='lacks the markers <!-- models -->'):
        replace_table('a', 'models', 'new', path)


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


def test_installed_where_mim_looks(tmp_path):
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    mim = tmp_path / 'mmdet_nat/.mim'
    listed = {model.config for model in published_models(mim).values()}
    assert listed == published_models().keys() and all((mim / config).is_file() for config in listed)
    assert (mim / 'configs/_base_/models/upernet_nat.py').is_file() and (mim / 'mmnat train').is_file()
