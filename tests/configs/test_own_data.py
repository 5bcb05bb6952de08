"""The configs that come with the project: published sizes and recipes, and that they train."""

import json
from pathlib import Path

import pytest
import torch
from fruits import lay_out_fruits
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmnat.commands import train
from mmnat.commands.label_maps import make_label_maps
from mmnat.commands.plot import main as plot_curves
from mmnat.config import read_config
from mmnat.data.scenes import OBJECT_CLASSES, SEGMENT_CLASSES, SEGMENT_PALETTE, make_demo_data
from mmnat.zoo import published_models

ROOT = Path(__file__).parents[2]
MASK_RCNN = 'configs/nat/mask-rcnn_nat-mini_fpn_amp-ms-crop-3x_coco.py'
UPERNET = 'configs/nat/nat-mini_upernet_8xb2-amp-160k_ade20k-512x512.py'
DINAT_S = 'configs/dinat_s/dinat-s-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
DEMO_DETECTOR = 'configs/demo/mask-rcnn_nat-demo_fpn_demo-instances.py'
DEMO_SEGMENTOR = 'configs/demo/nat-demo_upernet_demo-scenes.py'
FRUITS_NUTS = 'configs/fruits_nuts/mask-rcnn_nat-demo_fpn_fruits-nuts.py'
FRUITS_NUTS_SEGMENTOR = 'configs/fruits_nuts/nat-demo_upernet_fruits-nuts.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'demo'
    make_demo_data(folder, train=16, val=4, seed=1)
    return folder


def test_every_config_is_tested():
    """Those of published models by test_zoo*.py and test_mask2former.py."""
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').glob('[!_]*/*.py')}
    own_data = {DEMO_DETECTOR, DEMO_SEGMENTOR, FRUITS_NUTS, FRUITS_NUTS_SEGMENTOR}
    assert configs == own_data.union(published_models())


@pytest.mark.parametrize('config', [MASK_RCNN, UPERNET, DINAT_S])
def test_rates_and_weight_decay(config):
    cfg = read_config(str(ROOT / config))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    optimizer = cfg.optim_wrapper.optimizer
    plain = dict(cfg.optim_wrapper, type='OptimWrapper')
    plain.pop('loss_scale')
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, plain).optimizer.param_groups
    assert sum(len(group['params']) for group in groups) == len(names)
    for group in groups:
        assert group['lr'] == optimizer.lr
        for parameter in group['params']:
            name = names[id(parameter)]
            no_decay = name.startswith('backbone.') and ('norm' in name or name.endswith('.rpb'))
            assert group['weight_decay'] == (0.0 if no_decay else optimizer.weight_decay), name


def test_palette_and_classes_are_those_of_the_generator():
    detector, segmentor = (read_config(str(ROOT / c)) for c in (DEMO_DETECTOR, DEMO_SEGMENTOR))
    assert tuple(detector.metainfo.classes) == OBJECT_CLASSES
    assert tuple(segmentor.metainfo.classes) == SEGMENT_CLASSES
    assert [tuple(color) for color in segmentor.metainfo.palette] == SEGMENT_PALETTE


def detector_options(data):
    """Published detector on the generated instances."""
    options = [
        'model.roi_head.bbox_head.num_classes=5',
        'model.roi_head.mask_head.num_classes=5',
        'train_dataloader.dataset.filter_cfg.min_size=1',
        'train_dataloader.dataset.metainfo.classes=' + ','.join(OBJECT_CLASSES),
        'val_dataloader.dataset.metainfo.classes=' + ','.join(OBJECT_CLASSES),
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
        f'val_evaluator.ann_file={data}/annotations/instances_val.json',
    ]
    for split in ('train', 'val'):
        dataset = f'{split}_dataloader.dataset'
        options += [
            f'{dataset}.data_root={data}/',
            f'{dataset}.ann_file=annotations/instances_{split}.json',
            f'{dataset}.data_prefix.img={split}/',
        ]
    return options


def segmentor_options(data):
    """A segmentor, whatever its classes, on the generated scenes."""
    options = [
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=2',
    ]
    for split in ('train', 'val'):
        dataset = f'{split}_dataloader.dataset'
        options += [
            f'{dataset}.data_root={data}',
            f'{dataset}.data_prefix.img_path={split}',
            f'{dataset}.data_prefix.seg_map_path=annotations/{split}',
        ]
    return options


WITHOUT_WORKERS = [
    f'{loader}_dataloader.{setting}'
    for loader in ('train', 'val')
    for setting in ('num_workers=0', 'persistent_workers=False')
]
# The published backbone, less deep, from scratch and on small images.
REDUCED = ['model.backbone.depths=1,1,2,1', 'model.backbone.init_cfg=None', 'train_dataloader.batch_size=2']
DEMO = ['train_dataloader.batch_size=2', 'default_hooks.logger.interval=1']


def run_training(config, work_dir, options):
    # mmengine keeps visualizers by name for the life of the process.
    options = [*options, *WITHOUT_WORKERS, f'visualizer.name={work_dir}']
    train.main([str(ROOT / config), '--work-dir', str(work_dir), '--cfg-options', *options])


@pytest.mark.parametrize(
    ('config', 'options'),
    [
        pytest.param(
            MASK_RCNN,
            lambda data: [*detector_options(data), *REDUCED, 'train_dataloader.dataset.indices=4'],
            marks=pytest.mark.long,
        ),
        pytest.param(UPERNET, lambda data: [*segmentor_options(data), *REDUCED], marks=pytest.mark.long),
        (DEMO_DETECTOR, lambda data: [*detector_options(data), *DEMO, 'train_cfg.val_interval=1']),
        (DEMO_SEGMENTOR, lambda data: [*segmentor_options(data), *DEMO]),
    ],
    ids=['mask-rcnn', 'upernet', 'demo-detector', 'demo-segmentor'],
)
def test_trains(config, options, data, tmp_path):
    run_training(config, tmp_path / 'work', options(data))
    (log,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) >= 2 and all(0 < loss < 100 for loss in losses)
    assert any('coco/segm_mAP' in record or 'mIoU' in record for record in records)
    assert (tmp_path / 'work' / 'last_checkpoint').is_file()
    plot_curves([str(tmp_path / 'work')])
    assert (tmp_path / 'work' / 'curves.png').read_bytes().startswith(b'\x89PNG')


@pytest.fixture
def fruits(data, tmp_path):
    folder = tmp_path / 'data/fruits_nuts'
    lay_out_fruits(data, folder)
    return folder


def test_own_coco_data_in_one_file(fruits, tmp_path):
    options = [
        f'train_dataloader.dataset.dataset.data_root={fruits}/',
        'train_dataloader.dataset.times=1',
        'train_dataloader.dataset.dataset.indices=8',
        f'val_dataloader.dataset.data_root={fruits}/',
        'val_dataloader.dataset.indices=2',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
    ]
    run_training(FRUITS_NUTS, tmp_path / 'work', options)
    (log,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    assert 'coco/segm_mAP' in log.read_text()


def test_own_coco_data_for_a_segmentor(fruits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_label_maps(fruits / 'trainval.json', fruits.with_name('fruits_nuts_label_maps'), held_out=2)
    options = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'param_scheduler.0.end=1', *DEMO]
    options += ['param_scheduler.1.begin=1', 'param_scheduler.1.end=2', 'param_scheduler.1.T_max=1']
    run_training(FRUITS_NUTS_SEGMENTOR, tmp_path / 'work', options)
    (log,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    assert 'mIoU' in log.read_text()


def test_missing_pretrained_weights_are_named(data, tmp_path, capsys):
    options = [*detector_options(data), 'model.backbone.init_cfg.checkpoint=absent.pth']
    with pytest.raises(SystemExit) as exit_info:
        run_training(MASK_RCNN, tmp_path / 'w', options)
    assert exit_info.value.code == 2
    assert 'absent.pth does not exist' in capsys.readouterr().err
    assert not (tmp_path / 'w').exists()
