"""The configs of the published Mask2Former models on DiNAT-Large, and the data sets that come with them."""

import importlib.util
import json
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.structures import INSTANCE_OFFSET
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.structures import PixelData
from one_step import build_loader, build_model, train_one_step
from panoptic_scenes import (
    CITYSCAPES_LABELS,
    CITYSCAPES_THINGS,
    SCENES,
    write_ade20k,
    write_cityscapes,
    write_coco,
)
from panopticapi.utils import rgb2id
from reduced import reduce
from torch import nn

from mmnat.config import read_config

CONFIGS = Path(__file__).parents[2] / 'configs/mask2former'

# `size`, which batches are padded to, and mmseg's crops are (height, width); mmdet's are (width, height).
COCO = dict(
    queries=200,
    size=(1024, 1024),
    crop=(1024, 1024),
    jitter=dict(scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    test=(1333, 800),
    iters=737500,
    schedule=dict(type='MultiStepLR', milestones=[655556, 710184], gamma=0.1),
)
SIDES = [320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152, 1216, 1280]
ADE20K = dict(
    queries=200,
    size=(640, 640),
    crop=(640, 640),
    jitter=dict(scales=[(2560, side) for side in SIDES], keep_ratio=True),
    test=(2560, 640),
    iters=160000,
    schedule=dict(type='PolyLR', power=0.9, eta_min=0),
)
ADE20K_SEMANTIC = ADE20K | dict(
    queries=100, jitter=dict(scales=SIDES, max_size=2560, resize_type='ResizeShortestEdge')
)
SIDES = [512, 614, 716, 819, 921, 1024, 1126, 1228, 1331, 1433, 1536, 1638, 1740, 1843, 1945, 2048]
CITYSCAPES = dict(
    queries=200,
    size=(512, 1024),
    crop=(1024, 512),
    jitter=dict(scales=[(4096, side) for side in SIDES], keep_ratio=True),
    test=(2048, 1024),
    iters=90000,
    schedule=dict(type='PolyLR', power=0.9, eta_min=0),
)
CITYSCAPES_SEMANTIC = CITYSCAPES | dict(
    queries=100,
    crop=(512, 1024),
    jitter=dict(scales=SIDES, max_size=4096, resize_type='ResizeShortestEdge'),
)
# Classes are those of things and of stuff.
PUBLISHED = {
    'lsj-100e_coco': COCO | dict(classes=(80, 0), metrics={'coco/segm_mAP'}),
    'lsj-100e_coco-panoptic': COCO | dict(classes=(80, 53), metrics={'coco_panoptic/PQ', 'coco/segm_mAP'}),
    '160k_ade20k-instance-640x640': ADE20K | dict(classes=(100, 0), metrics={'coco/segm_mAP'}),
    '160k_ade20k-panoptic-640x640': ADE20K | dict(classes=(100, 50), metrics={'coco_panoptic/PQ'}),
    '160k_ade20k-640x640': ADE20K_SEMANTIC | dict(classes=150, metrics={'mIoU'}),
    '90k_cityscapes-instance-512x1024': CITYSCAPES | dict(classes=(8, 0), metrics={'coco/segm_mAP'}),
    '90k_cityscapes-panoptic-512x1024': CITYSCAPES | dict(classes=(8, 11), metrics={'coco_panoptic/PQ'}),
    '90k_cityscapes-512x1024': CITYSCAPES_SEMANTIC | dict(classes=19, metrics={'mIoU'}),
}
every_config = pytest.mark.parametrize('name', PUBLISHED)


def read(name):
    return read_config(str(CONFIGS / f'mask2former_dinat-large_8xb2-{name}.py'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('mask2former')
    for write in (write_coco, write_ade20k, write_cityscapes):
        write(root)
    return root


@pytest.fixture
def in_data(data, monkeypatch):
    """The configs' paths begin with ``data/``."""
    monkeypatch.chdir(data)


def test_every_config_is_tested():
    names = {path.stem.removeprefix('mask2former_dinat-large_8xb2-') for path in CONFIGS.glob('*.py')}
    assert names == set(PUBLISHED)


# Published settings ---------------------------------------------------------


def transform(pipeline, kind):
    (found,) = [step for step in pipeline if step.type == kind]
    return {key: value for key, value in found.items() if key != 'type'}


@every_config
def test_published_images(name):
    cfg, published = read(name), PUBLISHED[name]
    train, test = (cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'test'))
    jitter = transform(train, 'RandomResize' if 'coco' in name else 'RandomChoiceResize')
    jitter = {key: value for key, value in jitter.items() if value != 'Resize'}
    assert jitter == published['jitter']
    crop = transform(train, 'RandomCrop')
    assert crop['crop_size'] == published['crop'] and crop.get('cat_max_ratio', 1.0) == 1.0
    assert [step.type for step in train].count('PhotoMetricDistortion') == ('coco' not in name)
    assert transform(test, 'Resize') == dict(scale=published['test'], keep_ratio=True)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.get('seg_pad_value', preprocessor.get('seg_pad_val')) == 255
    padding = preprocessor.batch_augments[0] if 'batch_augments' in preprocessor else preprocessor
    assert padding['size'] == published['size']
    if 'batch_augments' in preprocessor:
        assert padding.pad_seg == ('panoptic' in name) and padding.get('seg_pad_value', 255) == 255
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            assert ('seg' in loader.dataset.data_prefix) == ('panoptic' in name)
    assert cfg.test_dataloader == cfg.val_dataloader and cfg.test_evaluator == cfg.val_evaluator


@every_config
def test_published_schedule(name):
    cfg, published = read(name), PUBLISHED[name]
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.type == 'IterBasedTrainLoop' and cfg.train_cfg.max_iters == published['iters']
    schedule = cfg.param_scheduler
    schedule = dict(schedule[0] if isinstance(schedule, list) else schedule)
    schedule.pop('_scope_', None)
    assert schedule == dict(begin=0, end=published['iters'], by_epoch=False, **published['schedule'])
    wrapper = cfg.optim_wrapper
    assert wrapper.type == 'OptimWrapper' and wrapper.clip_grad == dict(max_norm=0.01, norm_type=2)
    assert wrapper.optimizer.type == 'AdamW' and wrapper.optimizer.betas == (0.9, 0.999)


@every_config
def test_published_model(name):
    cfg, published = read(name), PUBLISHED[name]
    model = build_on_meta(cfg)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 220
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.kernel_size, backbone.drop_path_rate) == ('DiNAT', 11, 0.3)
    assert [max(level) for level in backbone.dilations] == [14, 7, 3, 1]
    head = model.decode_head if 'decode_head' in cfg.model else model.panoptic_head
    assert head.query_feat.num_embeddings == published['queries']
    classes = published['classes']
    if 'panoptic_head' in cfg.model:
        assert (head.num_things_classes, head.num_stuff_classes) == classes
        fusion = model.panoptic_fusion_head
        assert (fusion.num_things_classes, fusion.num_stuff_classes) == classes
        assert model.test_cfg.panoptic_on == (classes[1] > 0) and model.test_cfg.max_per_image == 100
        classes = sum(classes)
    assert head.cls_embed.out_features == classes + 1
    assert head.class_weight == [1.0] * classes + [0.1]


def build_on_meta(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@every_config
def test_rates_and_weight_decay(name):
    cfg = read(name)
    model = build_on_meta(cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    undecayed = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)
    owners = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert sum(len(group['params']) for group in groups) == len(names)
    for group in groups:
        for parameter in group['params']:
            name = names[id(parameter)]
            assert group['lr'] == pytest.approx(1e-5 if name.startswith('backbone.') else 1e-4), name
            no_decay = isinstance(owners[id(parameter)], undecayed) or name.endswith('.rpb')
            assert group['weight_decay'] == (0.0 if no_decay else 0.05), name


# Training and evaluation ----------------------------------------------------


@every_config
@pytest.mark.usefixtures('in_data')
def test_trains_and_evaluates(name):
    cfg = reduce(read(name))
    model = build_model(cfg)
    batch = train_one_step(cfg, model)
    reduced = {512: 96, 640: 128, 1024: 192}
    assert batch['inputs'].shape == (2, 3, *(reduced[side] for side in PUBLISHED[name]['size']))
    metrics = evaluate(cfg, model)
    assert PUBLISHED[name]['metrics'] <= set(metrics) and np.isfinite(list(metrics.values())).all()


def evaluate(cfg, model):
    loader = build_loader(cfg.val_dataloader)
    metrics = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    if importlib.util.find_spec('cityscapesscripts') is None:
        metrics = [metric for metric in metrics if metric.type != 'CityScapesMetric']
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = loader.dataset.metainfo
    model.eval()
    for batch in loader:
        with torch.no_grad():
            evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))


@pytest.mark.usefixtures('in_data')
def test_semantic_ade20k_with_augmentation():
    cfg = read('160k_ade20k-640x640')
    (resize, flips, *_) = cfg.tta_pipeline[-1].transforms
    assert [step.scale for step in resize] == [(4480, s) for s in (320, 480, 640, 800, 960, 1120)]
    cfg.val_dataloader.dataset.pipeline = cfg.tta_pipeline
    sample = build_loader(cfg.val_dataloader).dataset[0]
    assert len(sample['inputs']) == len(resize) * len(flips) == 12


# Data sets ------------------------------------------------------------------


@pytest.fixture
def build_dataset(data):
    """Build a data set of a config, with its annotation file changed."""

    def build(name, split, change=lambda content: None, **settings):
        cfg = read(name)[f'{split}_dataloader'].dataset
        root = data / cfg.data_root
        content = json.loads((root / cfg.ann_file).read_text())
        change(content)
        path = data / 'changed.json'
        path.write_text(json.dumps(content))
        return DATASETS.build({**cfg, **settings, 'data_root': str(root), 'ann_file': str(path)})

    return build


CITYSCAPES_PANOPTIC = '90k_cityscapes-panoptic-512x1024'
ADE20K_PANOPTIC = '160k_ade20k-panoptic-640x640'


def all_segments(content):
    return (segment for image in content['annotations'] for segment in image['segments_info'])


def use_label_ids(content):
    """What cityscapesscripts writes without --use-train-id."""
    numbers = {category['id']: CITYSCAPES_LABELS[category['name']] for category in content['categories']}
    for category in content['categories']:
        category['id'] = numbers[category['id']]
    for segment in all_segments(content):
        segment['category_id'] = numbers[segment['category_id']]


def leave_out_things(content):
    things = {category['id'] for category in content['categories'] if category['isthing']}
    for image in content['annotations']:
        image['segments_info'] = [s for s in image['segments_info'] if s['category_id'] not in things]


@pytest.mark.parametrize('change', [lambda content: None, use_label_ids], ids=['train-ids', 'label-ids'])
def test_cityscapes_labels(build_dataset, change):
    dataset = build_dataset(CITYSCAPES_PANOPTIC, 'val', change)
    classes = dataset.metainfo['classes']
    assert classes[:8] == CITYSCAPES_THINGS == dataset.metainfo['thing_classes']
    sample = dataset.get_data_info(0)
    assert Path(sample['img_path']).is_file() and Path(sample['seg_map_path']).is_file()
    for segment in sample['segments_info']:
        number = segment['id'] // 1000 or segment['id']
        assert CITYSCAPES_LABELS[classes[segment['category']]] == number
    group, *others = sample['segments_info']
    assert group['category'] < 8 and not group['is_thing']
    assert [s['is_thing'] for s in others] == [s['category'] < 8 for s in others]
    boxes = [instance['bbox_label'] for instance in sample['instances']]
    assert boxes == [s['category'] for s in others if s['is_thing']] and len(boxes) >= 2


def test_cityscapes_with_other_classes(build_dataset):
    message = r"changed\.json must have the 19 categories .* missing are \['bicycle'\], unknown are \[\]"
    with pytest.raises(ValueError, match=message):
        build_dataset(CITYSCAPES_PANOPTIC, 'val', lambda content: content['categories'].pop())


def perfect_prediction(sample):
    """The ground truth as the head would predict it; a group of things as void."""
    ids = rgb2id(mmcv.imread(sample['seg_map_path'], channel_order='rgb'))
    prediction = np.full(ids.shape, len(CITYSCAPES_LABELS))
    for number, segment in enumerate(sample['segments_info'], 1):
        if segment['is_thing'] or segment['category'] >= 8:
            instance = INSTANCE_OFFSET * number if segment['is_thing'] else 0
            prediction[ids == segment['id']] = segment['category'] + instance
    return PixelData(sem_seg=torch.from_numpy(prediction[None]))


@pytest.mark.usefixtures('in_data')
def test_cityscapes_ground_truth_is_perfect(build_dataset):
    dataset = build_dataset(CITYSCAPES_PANOPTIC, 'val')
    metric = METRICS.build(read(CITYSCAPES_PANOPTIC).val_evaluator[0])
    metric.dataset_meta = dataset.metainfo
    data_sample = dataset[0]['data_samples']
    data_sample.pred_panoptic_seg = perfect_prediction(dataset.get_data_info(0))
    metric.process({}, [data_sample.to_dict()])
    result = metric.evaluate(1)
    assert [result[f'coco_panoptic/PQ{part}'] for part in ('', '_th', '_st')] == pytest.approx([100] * 3)


def test_ade20k_goes_by_the_masks(build_dataset):
    misled = build_dataset(ADE20K_PANOPTIC, 'train', type='ADE20KPanopticDataset')
    assert not any(misled.get_data_info(i)['instances'] for i in range(len(misled)))
    dataset = build_dataset(ADE20K_PANOPTIC, 'train')
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        assert len(info['instances']) == sum(s['is_thing'] for s in info['segments_info']) >= 2
        instances = dataset[index]['data_samples'].gt_instances
        assert (instances.masks.areas > 0).all()
        boxes = instances.masks.get_bboxes(type(instances.bboxes)).tensor
        assert torch.equal(boxes, instances.bboxes.tensor)


@pytest.mark.parametrize('name', [CITYSCAPES_PANOPTIC, ADE20K_PANOPTIC])
def test_images_without_things_are_trained_on(build_dataset, name):
    dataset = build_dataset(name, 'train', leave_out_things)
    assert len(dataset) == SCENES['train']
    sample = dataset[0]['data_samples']
    assert len(sample.gt_instances.labels) == 0
    labels = set(sample.gt_sem_seg.sem_seg.unique().tolist()) - {255}
    assert labels and min(labels) >= len(dataset.metainfo['thing_classes'])
