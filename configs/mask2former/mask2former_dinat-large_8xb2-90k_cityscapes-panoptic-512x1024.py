_base_ = [
    '../_base_/datasets/mask2former_cityscapes-panoptic_512x1024.py',
    '../_base_/models/mask2former_dinat-large.py',
]

custom_imports = dict(imports=['mmdet_nat'])

model = dict(
    backbone=dict(_delete_=True, **_base_.dinat_large),
    panoptic_head=dict(in_channels=_base_.in_channels, num_queries=200),
)
optim_wrapper = dict(paramwise_cfg=_base_.paramwise_cfg)

max_iters = 90000
dynamic_intervals = None
train_cfg = dict(max_iters=max_iters, dynamic_intervals=dynamic_intervals)
param_scheduler = dict(
    _delete_=True, type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=max_iters, by_epoch=False
)
