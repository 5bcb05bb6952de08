_base_ = ['../_base_/datasets/mask2former_ade20k_640x640.py', '../_base_/models/mask2former_dinat-large.py']

custom_imports = dict(imports=['mmdet.models', 'mmseg_nat'])

model = dict(
    backbone=dict(_delete_=True, **_base_.dinat_large),
    decode_head=dict(in_channels=_base_.in_channels),
)
optim_wrapper = dict(paramwise_cfg=_base_.paramwise_cfg)
