"""Evaluators: files, classes, masks, and names of metrics."""

from collections import Counter

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from coco_split import CLASSES, edited, new_coco, write_coco
from mmdet.evaluation import CocoMetric
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from torch import nn

from mmnat import errors
from mmnat.errors import UserError
from mmnat.preflight.evaluators import _keys, check_evaluators, check_monitored
from mmnat.preflight.objects import Split


@pytest.fixture(autouse=True, scope='module')
def registered():
    register_all_modules()


@pytest.fixture(autouse=True)
def forget_warnings():
    errors.warn.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / 'val.json', new_coco())
    return tmp_path


def split(**changes):
    values = dict(
        field='val_dataloader.dataset',
        ann_file='val.json',
        classes=CLASSES,
        images={0: '0.jpg', 1: '1.jpg', 2: '2.jpg'},
        annotated=6,
        objects=Counter(box=3, disc=3),
        dropped=Counter(),
        loads_masks=False,
        packs_instances=True,
    )
    return Split(**(values | changes))


def check(evaluator, *splits, model=None):
    cfg = Config(dict(default_scope='mmdet', val_evaluator=evaluator))
    check_evaluators(cfg, 'val', splits or (split(),), model or nn.Identity())


def refused(*args, **kwargs):
    with pytest.raises(UserError) as error:
        check(*args, **kwargs)
    return str(error.value)


def metric(**values):
    return dict(type='CocoMetric', ann_file='val.json', metric=['bbox', 'segm']) | values


def every(section, **values):
    def edit(coco):
        for entry in coco[section]:
            entry.update(values)
            for name in [name for name, value in values.items() if value is None]:
                del entry[name]

    return edit


def test_what_is_right(folder, capsys):
    check(metric())
    check([metric(ann_file=None), dict(type='DumpDetResults', out_file_path='a.pkl')])
    check(dict(type='CocoMetric', ann_file='val.json'))
    assert not capsys.readouterr().err


def test_missing_file(folder):
    found = refused([metric(ann_file='data/coco/val.json')])
    assert found == (
        'val_evaluator[0].ann_file: data/coco/val.json does not exist; correct it, for example to that of '
        'the data set: val.json'
    )
    refused(dict(type='LVISMetric', ann_file='absent.json'))
    check(metric(ann_file='s3://bucket/val.json'))


@pytest.mark.parametrize(
    'edit',
    [
        lambda coco: (
            [image.update(file_name=f'train{image["id"]}.jpg') for image in coco['images']] and None
        ),
        lambda coco: coco.update(
            images=coco['images'][:2], annotations=[a for a in coco['annotations'] if a['image_id'] < 2]
        ),
    ],
)
def test_file_of_other_images(folder, edit):
    write_coco(folder / 'other.json', edited(edit))
    found = refused(metric(ann_file='other.json'))
    assert 'val_evaluator.ann_file: other.json is of other images than val_dataloader.dataset' in found
    assert found.endswith('set it to that of the data set, val.json')


@pytest.mark.parametrize('name', ['val/{}.jpg', '{}.png', 'a\\{}.jpg'])
def test_file_that_names_images_otherwise(folder, name):
    def edit(coco):
        for image in coco['images']:
            image['file_name'] = name.format(image['id'])

    write_coco(folder / 'other.json', edited(edit))
    check(metric(ann_file='other.json'))


def test_file_with_more_images(folder, capsys):
    check(metric(), split(images={0: '0.jpg'}))
    assert 'val.json has objects in 2 images that the data set leaves out' in capsys.readouterr().err
    check(metric(), split(images={0: '0.jpg', 1: '1.jpg'}), split(images={2: '2.jpg'}))
    assert not capsys.readouterr().err


def test_order_of_classes(folder):
    found = refused(metric(), split(classes=('disc', 'box')))
    assert 'have another order than the categories of val.json' in found
    check(metric(sort_categories=True), split(classes=('disc', 'box')))
    assert 'another order' in refused(
        metric(format_only=True, outfile_prefix='a'), split(classes=('disc', 'box'))
    )


@pytest.mark.parametrize(
    ('edit', 'expected'),
    [
        (
            every('annotations', iscrowd=None),
            'val_evaluator.ann_file: 6 of 6 annotations in val.json lack iscrowd',
        ),
        (every('annotations', iscrowd=1), 'no object is left to evaluate: val.json has only crowds'),
        (
            lambda coco: coco.update(annotations=[]),
            'no object is left to evaluate: val.json has no annotations',
        ),
        (lambda coco: coco.pop('annotations') and None, 'val.json has no annotations of the classes'),
        (every('annotations', id=4), 'val.json: 1 ids of annotations repeat'),
        (every('annotations', bbox=[0, 0, 1, 0.5]), 'val.json: all boxes lie between 0 and 1'),
        (every('annotations', segmentation=None), 'the segmentation of that with id 1 is missing or empty'),
        (every('annotations', segmentation=[[]]), "or evaluate boxes only: metric='bbox'"),
        (
            every('annotations', segmentation=[[1, 2, 9, 9]]),
            'begins with a polygon of fewer than three points',
        ),
    ],
)
def test_annotations_of_the_file(folder, edit, expected):
    write_coco(folder / 'val.json', edited(edit))
    assert expected in refused(metric())
    check(metric(format_only=True, outfile_prefix='results'))


def test_annotations_that_boxes_do_not_need(folder):
    write_coco(folder / 'val.json', edited(every('annotations', segmentation=None)))
    check(metric(metric='bbox'))
    write_coco(folder / 'val.json', edited(every('annotations', iscrowd=None)))
    check(metric(ann_file=None))


def test_objects_of_the_data_set(folder, capsys):
    empty = split(objects=Counter(), dropped=Counter({'have an area of 0 or less': 6}))
    found = refused(metric(ann_file=None), empty)
    assert found.startswith(
        'val_evaluator: no object is left to evaluate: of 6 annotations in val.json 6 have'
    )
    refused(dict(type='VOCMetric'), empty)
    check(dict(type='DumpDetResults', out_file_path='a.pkl'), empty)
    check(metric(ann_file=None), empty, split())
    check(metric(), empty)  # the file is what counts
    without = split(objects=Counter(), annotated=0)
    assert 'format_only=True and outfile_prefix' in refused(metric(ann_file=None), without)
    capsys.readouterr()
    check(metric(ann_file=None), split(dropped=Counter({'lie outside their image': 1})))
    assert 'mmdet drops 1 of 6 annotations in val.json' in capsys.readouterr().err


def test_annotations_that_the_pipeline_does_not_hand_on(folder):
    silent = split(packs_instances=False)
    found = refused(metric(ann_file=None), silent)
    assert 'the pipeline of val_dataloader.dataset does not hand on annotations; set ann_file to' in found
    check(metric(), silent)


def test_masks_of_the_data_set(folder):
    write_coco(folder / 'val.json', edited(every('annotations', segmentation=None)))
    assert "val_evaluator.metric has 'segm', but 6 of 6" in refused(metric(ann_file=None))
    check(metric(ann_file=None, metric='bbox'))


def test_masks_of_a_model_without(folder):
    model = nn.Module()
    model.roi_head = nn.Identity()
    model.roi_head.with_mask = False
    found = refused(metric(), model=model)
    assert "val_evaluator.metric has 'segm', but the model predicts no masks" in found
    check(metric(metric='bbox'), model=model)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (dict(metric='mAP'), "'proposal_fast', but got mAP"),
        (dict(format_only=True), 'outfile_prefix must be not'),
        (dict(metrics='bbox'), "unexpected keyword argument 'metrics'"),
    ],
)
def test_arguments(folder, arguments, expected):
    values = metric(**arguments)
    if 'metrics' in arguments:
        values = [values]  # metrics of a dict alone are those of an Evaluator
    assert expected in refused(values)


# Names of metrics -----------------------------------------------------------


def monitored(evaluator, hook, name='checkpoint', **fields):
    return Config(dict(val_cfg=dict(), val_evaluator=evaluator, default_hooks={name: hook}, **fields))


@pytest.mark.parametrize(
    ('evaluator', 'key', 'right'),
    [
        (metric(), 'bbox_mAP', 'coco/bbox_mAP'),
        (metric(), 'coco/segm_map', 'coco/segm_mAP'),
        (metric(metric='bbox'), 'coco/segm_mAP', 'coco/bbox_mAP'),
        (metric(prefix='own'), 'coco/bbox_mAP_50', 'own/bbox_mAP_50'),
        (metric(metric='proposal'), 'AR@100', 'coco/AR@100'),
        (metric(metric_items=['mAP_50']), 'coco/bbox_mAP', 'coco/bbox_mAP_50'),
        (dict(type='mmseg.IoUMetric'), 'IoU', 'mIoU'),
        (dict(type='mmseg.IoUMetric', iou_metrics=['mFscore']), 'mIoU', None),
        (dict(type='mmseg.IoUMetric', prefix='val'), 'mIoU', 'val/mIoU'),
    ],
)
def test_metric_of_another_name(evaluator, key, right):
    cfg = monitored(evaluator, dict(type='CheckpointHook', save_best=key))
    with pytest.raises(UserError) as error:
        check_monitored(cfg)
    assert f'default_hooks.checkpoint.save_best = {key!r} is no metric of val_evaluator' in str(error.value)
    if right:
        assert str(error.value).endswith(f'write {right!r}')
        check_monitored(monitored(evaluator, dict(type='CheckpointHook', save_best=[right])))


def test_metrics_that_are_not_known():
    """Nothing is said about the metrics of other packages, and of single classes."""
    for evaluator in ([metric(), dict(type='VOCMetric')], dict(type='Absent')):
        check_monitored(monitored(evaluator, dict(save_best='pascal_voc/mAP')))
    check_monitored(monitored(metric(classwise=True), dict(save_best='coco/disc_precision')))
    check_monitored(monitored(metric(), dict(save_best=None)))


def test_rule_that_mmengine_does_not_know():
    evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mFscore'])
    hook = dict(type='CheckpointHook', save_best='mFscore')
    with pytest.raises(
        UserError, match=r"save_best = 'mFscore': Cannot infer the rule.*write rule='greater'"
    ):
        check_monitored(monitored(evaluator, hook))
    check_monitored(monitored(evaluator, dict(hook, rule='greater')))
    check_monitored(monitored(evaluator, dict(hook, save_best='auto')))


def test_early_stopping():
    hook = dict(type='EarlyStoppingHook', monitor='bbox_mAP')
    cfg = monitored(metric(), dict(), custom_hooks=[hook])
    with pytest.raises(UserError, match=r"custom_hooks\[0\].monitor = 'bbox_mAP' is no metric"):
        check_monitored(cfg)


def test_without_validation(capsys):
    check_monitored(Config(dict(default_hooks=dict(checkpoint=dict(save_best='mIoU')))))
    assert "save_best = 'mIoU', but the training has no validation" in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments',
    [
        dict(metric=['bbox', 'segm']),
        dict(metric='proposal'),
        dict(metric='bbox', metric_items=['mAP', 'AR@100'], prefix='own'),
        dict(metric=['bbox', 'proposal_fast'], proposal_nums=[10, 20, 30]),
    ],
)
def test_names_are_those_of_coco_metric(folder, arguments):
    MMLogger.get_instance('mmnat-test')
    evaluator = CocoMetric(ann_file='val.json', **arguments)
    evaluator.dataset_meta = dict(classes=CLASSES)
    mask = torch.zeros(1, 60, 80, dtype=torch.bool)
    mask[:, 10:40, 4:34] = True
    for index in range(3):
        prediction = dict(
            bboxes=torch.tensor([[4.0, 10, 34, 40]]),
            scores=torch.ones(1),
            labels=torch.zeros(1, dtype=torch.int64),
            masks=mask,
        )
        evaluator.process({}, [dict(img_id=index, ori_shape=(60, 80), pred_instances=prediction)])
    computed = evaluator.evaluate(3)
    assert list(computed) == _keys(dict(type='CocoMetric', **arguments))


@pytest.mark.parametrize('iou_metrics', [['mIoU'], ['mDice'], ['mFscore'], ['mIoU', 'mFscore']])
def test_names_are_those_of_iou_metric(iou_metrics):
    MMLogger.get_instance('mmnat-test')
    evaluator = IoUMetric(iou_metrics=iou_metrics)
    evaluator.dataset_meta = dict(classes=CLASSES)
    areas = torch.from_numpy(np.full(2, 9.0))
    evaluator.results = [(areas, areas, areas, areas)]
    assert set(evaluator.evaluate(1)) == set(_keys(dict(type='mmseg.IoUMetric', iou_metrics=iou_metrics)))
