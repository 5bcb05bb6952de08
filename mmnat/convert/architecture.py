"""Infers the architecture of a model from the names and shapes in its state dict."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmnat.errors import UserError

#: The prefix of names that only one kind of model has. The first kind with a match is chosen.
KINDS = {
    'Mask2Former': 'panoptic_head.pixel_decoder.',
    'Cascade Mask R-CNN': 'roi_head.bbox_head.0.',
    'Mask R-CNN': 'roi_head.mask_head.',
    'UPerNet': 'decode_head.psp_modules.',
}
# Of no more digits than a model could have.
_BLOCK = re.compile(
    r'(?P<levels>levels|layers)\.(?P<level>\d{1,3})\.blocks\.(?P<block>\d{1,4})\.(?P<name>.+)'
)


def has_blocks(weights: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether the state dict has the blocks of NAT, DiNAT or DiNAT_s after a prefix.

    Args:
        weights: Name to tensor.
        prefix: The prefix of the backbone's names.
    """
    return any(match['name'] == 'attn.rpb' for match, _ in _blocks(weights, prefix))


def backbone_settings(weights: Mapping[str, Tensor], prefix: str, path: str) -> dict[str, Any]:
    """Infer the arguments of a backbone from its weights.

    The dilations are not among them, because no weight depends on them: DiNAT counts as NAT.

    Args:
        weights: Name to tensor.
        prefix: The prefix of the backbone's names.
        path: The file, for messages.

    Returns:
        ``type`` and the arguments.
    """
    blocks: dict[int, set[int]] = {}
    samples: dict[int, dict[str, Tensor]] = {}
    for match, weight in _blocks(weights, prefix):
        level = int(match['level'])
        blocks.setdefault(level, set()).add(int(match['block']))
        samples.setdefault(level, {}).setdefault(match['name'], weight)
        family = match['levels']
    for level in range(max(blocks) + 1):
        _check_sample(samples.get(level, {}), f'{prefix}{family}.{level}', path)
        if len(blocks[level]) <= max(blocks[level]):
            raise UserError(
                f'checkpoint {path} has {prefix}{family}.{level}.blocks.{max(blocks[level])}, but only'
                f' {len(blocks[level])} blocks there',
                'copy or download it again',
            )
    ordered = [samples[level] for level in sorted(samples)]
    hidden, embed_dim = ordered[0]['mlp.fc1.weight'].shape
    settings = dict(
        type='NAT' if family == 'levels' else 'DiNAT_s',
        embed_dim=embed_dim,
        depths=[len(blocks[level]) for level in sorted(blocks)],
        num_heads=[len(sample['attn.rpb']) for sample in ordered],
        mlp_ratio=hidden / embed_dim,
        kernel_size=(ordered[0]['attn.rpb'].shape[-1] + 1) // 2,
    )
    if 'gamma1' in ordered[0]:
        settings['layer_scale'] = 1e-5
    if 'attn.qkv.bias' not in ordered[0]:
        settings['qkv_bias'] = False
    return settings


def model_kind(weights: Mapping[str, Tensor], path: str) -> str:
    """The kind of detector or segmentor, one of :data:`KINDS`; raises UserError if it is another."""
    for kind, beginning in KINDS.items():
        if any(name.startswith(beginning) for name in weights):
            return kind
    raise UserError(
        f'checkpoint {path} is of another model than {", ".join(KINDS)}',
        'name the config of its model with --config',
    )


def _blocks(weights: Mapping[str, Tensor], prefix: str) -> list[tuple[re.Match, Tensor]]:
    matches = [
        (_BLOCK.fullmatch(name.removeprefix(prefix)), weight)
        for name, weight in weights.items()
        if name.startswith(prefix)
    ]
    return [(match, weight) for match, weight in matches if match]


def _check_sample(sample: Mapping[str, Tensor], level: str, path: str) -> None:
    """Reject a level whose size cannot be inferred."""
    for name, dims in (('attn.rpb', 3), ('mlp.fc1.weight', 2)):
        if name not in sample or sample[name].dim() != dims:
            raise UserError(
                f'checkpoint {path} has no {level}.blocks.*.{name} of {dims} dimensions',
                'copy or download it again',
            )
