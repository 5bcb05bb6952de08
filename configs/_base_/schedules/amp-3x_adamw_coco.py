# The published COCO schedule in mixed precision.
_base_ = './3x_adamw_coco.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
