"""Hugging Face's NAT and DiNAT: ``shi-labs/nat-*`` and ``shi-labs/dinat-*``.

The names are those of transformers' models ``nat`` (up to 4.48, as deprecated) and ``dinat``: of the
classes ``...ForImageClassification``, in which they start with the model's name, ``...Model`` and
``...Backbone``. The models compute the same as ours: stem, downsampling and order of channels are those
of the NAT release.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .renaming import Conversion, Rule, rename

NAME = "Hugging Face's nat or dinat"
_MODEL = r'(?:(?:nat|dinat)\.)?'
_BLOCK = _MODEL + r'encoder\.levels\.(\d+)\.layers\.(\d+)\.'
# Names in a block without 'weight' and 'bias': theirs to ours.
_IN_BLOCK = {
    'layernorm_before': 'norm1',
    'attention.self.qkv': 'attn.qkv',
    'attention.self.rpb': 'attn.rpb',
    'attention.output.dense': 'attn.proj',
    'layernorm_after': 'norm2',
    'intermediate.dense': 'mlp.fc1',
    'output.dense': 'mlp.fc2',
    'gamma1': 'gamma1',
    'gamma2': 'gamma2',
}
_RULES: list[Rule] = [
    (_MODEL + r'embeddings\.patch_embeddings\.projection\.(.+)', r'patch_embed.proj.\1'),
    (_MODEL + r'embeddings\.norm\.(.+)', r'patch_embed.norm.\1'),
    *(
        (_BLOCK + re.escape(theirs) + r'(\.weight|\.bias|)', rf'levels.\1.blocks.\2.{ours}\3')
        for theirs, ours in _IN_BLOCK.items()
    ),
    (_MODEL + r'encoder\.levels\.(\d+)\.downsample\.(.+)', r'levels.\1.downsample.\2'),
    (r'hidden_states_norms\.stage(\d+)\.(.+)', lambda match: f'norm{int(match[1]) - 1}.{match[2]}'),
    # An output that our backbones do not have.
    (r'hidden_states_norms\.stem\..+', None),
    (_MODEL + r'layernorm\..+', None),
    (r'classifier\..+', None),
]


def recognizes(weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights have transformers' names."""
    return any(re.fullmatch(_BLOCK + r'attention\.self\.rpb', name) for name in weights)


def convert(weights: Mapping[str, Tensor]) -> Conversion:
    """Fuse query, key and value, split layer scale, and rename."""
    weights = dict(weights)
    steps = [_fuse_queries_keys_values(weights), _split_layer_scale(weights)]
    result = rename(weights, _RULES)
    result.steps[:0] = filter(None, steps)
    return result


def _fuse_queries_keys_values(weights: dict[str, Tensor]) -> str:
    count = 0
    for name in list(weights):
        match = re.fullmatch(r'(.+\.attention\.self\.)query(\.weight|\.bias)', name)
        if match is None:
            continue
        parts = [f'{match[1]}{part}{match[2]}' for part in ('query', 'key', 'value')]
        # Incomplete parts stay as they are; the comparison with the model will report them.
        if len({weights[part].shape if part in weights else None for part in parts}) == 1:
            weights[f'{match[1]}qkv{match[2]}'] = torch.cat([weights.pop(part) for part in parts])
            count += 1
    return f'fused {3 * count} to {count}: query, key and value -> qkv' if count else ''


def _split_layer_scale(weights: dict[str, Tensor]) -> str:
    count = 0
    for name in list(weights):
        block = name.removesuffix('layer_scale_parameters')
        if block != name and weights[name].dim() == 2 and len(weights[name]) == 2:
            for factor, weight in zip(('gamma1', 'gamma2'), weights.pop(name), strict=True):
                weights[block + factor] = weight.clone()
            count += 1
    return f'split {count} to {2 * count}: layer_scale_parameters -> gamma1, gamma2' if count else ''
