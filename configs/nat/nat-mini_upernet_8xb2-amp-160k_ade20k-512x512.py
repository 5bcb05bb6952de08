_base_ = [
    '../_base_/models/upernet_nat.py',
    'mmseg::_base_/datasets/ade20k.py',
    '../_base_/schedules/160k_adamw_ade20k.py',
    'mmseg::_base_/default_runtime.py',
]

pretrained = 'https://shi-labs.com/projects/nat/checkpoints/CLS/nat_mini.pth'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        arch='mini',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
train_dataloader = dict(batch_size=2)
