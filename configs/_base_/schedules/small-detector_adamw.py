# For small detectors from scratch: AdamW with a high rate, warm-up and cosine decay. A config that changes
# max_epochs sets the end of the decay as well (param_scheduler.1). Fused, an update takes half the time.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min_ratio=0.02,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0), 'rpb': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=5.0),
)
