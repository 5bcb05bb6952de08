# What the published Mask2Former models on DiNAT-Large share, whatever the framework, the task and the data.
# A config takes these by name, `_base_.dinat_large`, since its other base already has a `model`.
dinat_large = dict(
    type='DiNAT',
    arch='large',
    kernel_size=11,
    dilations=[
        [1, 14, 1],
        [1, 4, 1, 7],
        [1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 2, 1, 3, 1, 3],
        [1, 1, 1, 1, 1],
    ],
    drop_path_rate=0.3,
    out_indices=(0, 1, 2, 3),
    # ImageNet-22K at 224 pixels and kernel size 7; in this file the biases are resized to kernel size 11.
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://shi-labs.com/projects/dinat/checkpoints/imagenet22k/dinat_large_in22k_224_11x11interp.pth',
    ),
)
in_channels = [192, 384, 768, 1536]

# A tenth of the rate in the backbone; no weight decay on norms, embeddings and relative position biases.
# The longest key in a parameter's name counts, so those for parts of the backbone are longer than
# 'backbone'; norm_decay_mult is for the other norms.
_undecayed = ('.attn.rpb', 'patch_embed.norm', 'downsample.norm', 'backbone.norm')
_undecayed += tuple(f'norm{i}.{name}' for i in (1, 2) for name in ('weight', 'bias'))
_embeddings = ('query_embed', 'query_feat', 'level_embed', 'level_encoding')
paramwise_cfg = dict(
    custom_keys={
        'backbone': dict(lr_mult=0.1, decay_mult=1.0),
        **{key: dict(lr_mult=0.1, decay_mult=0.0) for key in _undecayed},
        **{key: dict(lr_mult=1.0, decay_mult=0.0) for key in _embeddings},
    },
    norm_decay_mult=0.0,
)
