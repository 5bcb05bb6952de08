_base_ = [
    '../_base_/models/upernet_nat.py',
    '../_base_/datasets/ade20k_8xb2-640x640.py',
    '../_base_/schedules/160k_adamw_ade20k.py',
    'mmseg::_base_/default_runtime.py',
]

pretrained = 'https://shi-labs.com/projects/dinat/checkpoints/imagenet22k/dinat_large_in22k_224.pth'
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type='DiNAT',
        arch='large',
        dilations=[
            [1, 20, 1],
            [1, 5, 1, 10],
            [1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5],
            [1, 2, 1, 2, 1],
        ],
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
