_base_ = [
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    '../_base_/models/mask2former_dinat-large.py',
]

custom_imports = dict(imports=['mmdet_nat'])

model = dict(
    backbone=dict(_delete_=True, **_base_.dinat_large),
    panoptic_head=dict(in_channels=_base_.in_channels, num_queries=200),
)
optim_wrapper = dict(paramwise_cfg=_base_.paramwise_cfg)

max_iters = 737500
dynamic_intervals = [(735001, max_iters)]
train_cfg = dict(max_iters=max_iters, dynamic_intervals=dynamic_intervals)
param_scheduler = dict(end=max_iters, milestones=[655556, 710184])

# mmdet's config keeps the folder of the panoptic label maps, which need not be there.
train_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True, img='train2017/')))
val_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True, img='val2017/')))
test_dataloader = val_dataloader
