_base_ = [
    '../_base_/models/upernet_nat.py',
    '../_base_/datasets/ade20k_8xb2-512x512.py',
    '../_base_/schedules/amp-160k_adamw_ade20k.py',
    'mmseg::_base_/default_runtime.py',
]

pretrained = 'https://shi-labs.com/projects/nat/checkpoints/CLS/nat_tiny.pth'
model = dict(
    backbone=dict(
        arch='tiny',
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
