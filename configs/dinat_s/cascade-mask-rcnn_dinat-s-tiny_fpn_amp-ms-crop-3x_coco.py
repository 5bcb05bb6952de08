_base_ = [
    '../_base_/models/cascade-mask-rcnn_nat_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/amp-3x_adamw_coco.py',
    'mmdet::_base_/default_runtime.py',
]

pretrained = 'https://shi-labs.com/projects/dinat/checkpoints/imagenet1k/dinat_s_tiny_in1k_224.pth'
model = dict(
    backbone=dict(
        type='DiNAT_s',
        arch='tiny',
        dilations=[[1, 28], [1, 14], [1, 3, 1, 5, 1, 7], [1, 3]],
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
