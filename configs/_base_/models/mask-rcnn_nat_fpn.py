# Mask R-CNN on a neighborhood attention backbone. A config adds the backbone's variant and the channels
# of its levels (neck.in_channels).
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

custom_imports = dict(imports=['mmdet_nat'])

model = dict(
    backbone=dict(_delete_=True, type='NAT', out_indices=(0, 1, 2, 3)),
)
