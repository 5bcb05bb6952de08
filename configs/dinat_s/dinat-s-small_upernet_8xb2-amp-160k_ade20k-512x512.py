_base_ = [
    '../_base_/models/upernet_nat.py',
    '../_base_/datasets/ade20k_8xb2-512x512.py',
    '../_base_/schedules/amp-160k_adamw_ade20k.py',
    'mmseg::_base_/default_runtime.py',
]

pretrained = 'https://shi-labs.com/projects/dinat/checkpoints/imagenet1k/dinat_s_small_in1k_224.pth'
model = dict(
    backbone=dict(
        type='DiNAT_s',
        arch='small',
        dilations=[[1, 16], [1, 8], [1, 2, 1, 3, 1, 4] * 3, [1, 2]],
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
