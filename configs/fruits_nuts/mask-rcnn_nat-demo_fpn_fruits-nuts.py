# Your own COCO-format data: copy this file and change the lines below. Here they describe 18 photographs of
# dates, figs and hazelnuts in one annotation file, of which the last four are held out.
_base_ = [
    '../_base_/models/mask-rcnn_nat-demo_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/small-detector_adamw.py',
    'mmdet::_base_/default_runtime.py',
]

data_root = 'data/fruits_nuts/'
ann_file = 'trainval.json'
data_prefix = dict(img='images/')
classes = ('date', 'fig', 'hazelnut')

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes)))
)
scale = (400, 300)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.7, 1.4), keep_ratio=True),
    dict(type='RandomFlip', prob=[0.33, 0.33], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
dataset = dict(
    data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, metainfo=dict(classes=classes)
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=20,
        dataset=dict(type='CocoDataset', indices=list(range(14)), pipeline=train_pipeline, **dataset),
    ),
)
val_dataloader = dict(
    num_workers=1, dataset=dict(indices=list(range(14, 18)), pipeline=test_pipeline, **dataset)
)
test_dataloader = val_dataloader
# Without an annotation file the metric takes the `instances` that the pipeline packs: those of the held-out
# images only.
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
