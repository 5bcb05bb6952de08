# A Mask R-CNN small enough to train from scratch on a CPU: a small NAT, a fifth of the usual channels,
# fewer proposals, and one sample in each bin of RoIAlign: its time grows with their number.
_base_ = './mask-rcnn_nat_fpn.py'

roi_layer = dict(sampling_ratio=1)
model = dict(
    backbone=dict(
        embed_dim=32,
        depths=(2, 2, 4, 2),
        num_heads=(1, 2, 4, 8),
        mlp_ratio=2.0,
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=48),
    rpn_head=dict(in_channels=48, feat_channels=48, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48, finest_scale=28, roi_layer=roi_layer),
        bbox_head=dict(in_channels=48, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=48, finest_scale=28, roi_layer=roi_layer),
        mask_head=dict(in_channels=48, conv_out_channels=48, num_convs=2),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=250, max_per_img=250),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
