# The published ADE20K schedule in mixed precision.
_base_ = './160k_adamw_ade20k.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
