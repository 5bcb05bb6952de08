"""Rejects arguments that the backbones do not take, for example those of other implementations."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

# How to replace an argument of the NAT release, of Swin in mmdet and mmpretrain, or of transformers.
_FORMER = {
    'pretrained': "write init_cfg=dict(type='Pretrained', checkpoint={value!r})",
    'in_chans': 'write in_channels={value!r}',
    'num_channels': 'write in_channels={value!r}',
    'embed_dims': 'write embed_dim={value!r}',
    'use_checkpoint': 'write with_cp={value!r}',
    'drop_path': 'write drop_path_rate={value!r}',
    'hidden_dropout_prob': 'write drop_rate={value!r}',
    'attention_probs_dropout_prob': 'write attn_drop_rate={value!r}',
    'layer_scale_init_value': 'write layer_scale={value!r}',
    'window_size': 'write kernel_size={value!r}',
    'in_patch_size': 'leave it out, the stem has stride 4',
    'patch_size': 'leave it out, the stem has stride 4',
    'patch_norm': 'leave it out, the stem always ends in a norm',
    'pretrain_img_size': 'leave it out, images may have any size',
    'ape': 'leave it out, there is no absolute position embedding',
    'use_abs_pos_embed': 'leave it out, there is no absolute position embedding',
    'image_size': 'leave it out, images may have any size',
    'convert_weights': 'leave it out, published weights are taken as they are',
    'strides': 'leave it out, they are 4, 8, 16 and 32',
    'norm_layer': 'leave it out, all norms are LayerNorm',
    'norm_cfg': 'leave it out, all norms are LayerNorm',
    'norm_eval': 'leave it out, LayerNorm has no statistics of batches',
    'layer_norm_eps': 'leave it out, it is 1e-5',
    'act_cfg': 'leave it out, the activation is GELU',
    'hidden_act': 'leave it out, the activation is GELU',
    'num_classes': 'leave it out, the backbone has no classifier',
}


def refuse_unknown(owner: str, unknown: Mapping[str, Any], valid: Sequence[str]) -> None:
    """Raise TypeError if there are arguments that a backbone does not take.

    Args:
        owner: Name of the backbone's class, for the message.
        unknown: The arguments, by name.
        valid: Names of the arguments that the backbone takes.
    """
    if unknown:
        remedies = [f'argument {name!r}: {_remedy(name, value, valid)}' for name, value in unknown.items()]
        raise TypeError(f'{owner} does not take {"; ".join(remedies)}')


def _remedy(name: str, value: Any, valid: Sequence[str]) -> str:
    if name in _FORMER:
        remedy = _FORMER[name]
        # None and 0 switch a feature off, for example layer scale.
        off = value is None or (value == 0 and remedy.startswith('write'))
        return 'leave it out' if off else remedy.format(value=value)
    near = difflib.get_close_matches(name, valid, n=1)
    return f'the nearest that it takes is {near[0]!r}' if near else f'it takes {", ".join(valid)}'
