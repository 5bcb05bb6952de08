_base_ = [
    '../_base_/models/upernet_nat.py',
    '../_base_/datasets/ade20k_8xb2-512x512.py',
    '../_base_/schedules/amp-160k_adamw_ade20k.py',
    'mmseg::_base_/default_runtime.py',
]

pretrained = 'https://shi-labs.com/projects/nat/checkpoints/CLS/nat_small.pth'
model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.5,
        layer_scale=1e-5,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
