_base_ = [
    '../_base_/models/cascade-mask-rcnn_nat_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/amp-3x_adamw_coco.py',
    'mmdet::_base_/default_runtime.py',
]

pretrained = 'https://shi-labs.com/projects/nat/checkpoints/CLS/nat_small.pth'
model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,
        layer_scale=1e-5,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
