# UPerNet on a neighborhood attention backbone, as published for ADE20K. A config adds the backbone's
# variant, the channels of its levels (decode_head.in_channels) and of level 2 (auxiliary_head.in_channels).
_base_ = 'mmseg::_base_/models/upernet_swin.py'

custom_imports = dict(imports=['mmseg_nat'])

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, type='NAT', out_indices=(0, 1, 2, 3)),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
