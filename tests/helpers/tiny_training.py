"""A detector and a segmentor that train within seconds, and four images for them."""

import json

import cv2
import numpy as np

DETECTOR = """
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['mmdet_nat'])
data_root = 'DATA/'
metainfo = dict(classes=('disc', 'square'))
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True, type='NAT', embed_dim=32, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8],
        mlp_ratio=2.0, kernel_size=3, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2)),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20)))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs')]
dataset = dict(
    type='CocoDataset', data_root=data_root, metainfo=metainfo, ann_file='coco.json',
    data_prefix=dict(img='images/'), pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='RepeatDataset', times=1, dataset=dataset))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(test_mode=True, **dataset))
test_evaluator = dict(type='CocoMetric', ann_file=data_root + 'coco.json', metric='bbox')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
test_cfg = dict(type='TestLoop')
val_dataloader = val_evaluator = val_cfg = None
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4))
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch=False, interval=1),
    visualization=dict(type='DetVisualizationHook'))
log_processor = dict(by_epoch=False)
"""

SEGMENTOR = """
_base_ = ['mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmseg_nat'])
data_root = 'DATA/'
metainfo = dict(
    classes=('ground', 'disc', 'square'), palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]])
norm_cfg = dict(type='SyncBN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), seg_pad_val=255),
    backbone=dict(
        type='NAT', embed_dim=32, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], mlp_ratio=2.0,
        kernel_size=3, out_indices=(2, 3)),
    decode_head=dict(
        type='FCNHead', in_channels=256, in_index=1, channels=8, num_convs=1, num_classes=3,
        norm_cfg=norm_cfg),
    auxiliary_head=[dict(
        type='FCNHead', in_channels=128, in_index=0, channels=8, num_convs=1, num_classes=3,
        norm_cfg=norm_cfg)],
    train_cfg=dict(), test_cfg=dict(mode='whole'))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)),
    dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(
    type='BaseSegDataset', data_root=data_root, metainfo=metainfo,
    data_prefix=dict(img_path='images', seg_map_path='labels'))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=False),
    dataset=dict(pipeline=train_pipeline, **dataset))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline, **dataset))
test_evaluator = dict(type='IoUMetric')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4))
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
    visualization=dict(type='SegVisualizationHook'))
log_processor = dict(by_epoch=False)
"""


def draw_data(root, level=0, count=4):
    """Images of a disc and a square, with boxes, masks and label maps.

    Args:
        root: The folder.
        level: Added to the grey of the background, to draw images that differ.
        count: How many images.
    """
    for name in ('images', 'labels'):
        (root / name).mkdir(parents=True)
    coco = dict(images=[], annotations=[], categories=[])
    coco['categories'] = [dict(id=7, name='disc'), dict(id=3, name='square')]
    for index in range(count):
        image = np.full((64, 64, 3), 30 * index + level, np.uint8)
        label = np.zeros((64, 64), np.uint8)
        for canvas, disc, square in ((image, (0, 0, 255), (255, 0, 0)), (label, 1, 2)):
            cv2.circle(canvas, (20, 20 + 4 * index), 12, disc, -1)
            cv2.rectangle(canvas, (36, 36), (60, 60), square, -1)
        cv2.imwrite(str(root / f'images/{index}.jpg'), image)
        cv2.imwrite(str(root / f'labels/{index}.png'), label)
        coco['images'].append(dict(id=index, file_name=f'{index}.jpg', height=64, width=64))
        for category, (x, y) in ((7, (8, 8 + 4 * index)), (3, (36, 36))):
            corners = [x, y, x + 24, y, x + 24, y + 24, x, y + 24]
            coco['annotations'].append(
                dict(
                    id=len(coco['annotations']),
                    image_id=index,
                    category_id=category,
                    bbox=[x, y, 24, 24],
                    area=576,
                    iscrowd=0,
                    segmentation=[corners],
                )
            )
    (root / 'coco.json').write_text(json.dumps(coco))


def write_configs(folder, data):
    for name, text in (('detector', DETECTOR), ('segmentor', SEGMENTOR)):
        (folder / f'{name}.py').write_text(text.replace('DATA', str(data)))
