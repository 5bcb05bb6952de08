"""Learning rates that decay from the heads down to the stem."""

import difflib
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmnat.models.backbone import NeighborhoodBackbone

DECAY_TYPES = ('layer_wise', 'stage_wise')
_SETTINGS = ('decay_rate', 'decay_type', 'num_layers')
#: What mmengine's own constructor reads from ``paramwise_cfg``.
_SETTINGS_OF_MMENGINE = (
    *('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult'),
    *('flat_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate', '_scope_'),
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class NATLayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Gives each layer of NAT, DiNAT or DiNAT_s its own learning rate; deep layers learn faster.

    Layer 0 is the stem, layers 1 to ``num_layers`` are the blocks, and the output norms, necks and heads
    have the full rate. Layer ``i`` has the rate ``lr * decay_rate ** (num_layers + 1 - i)``, as in the
    constructors of mmdet and mmseg. A downsampling belongs to the block after it. Norms, biases, position
    biases and layer scales have no weight decay.

    Args:
        optim_wrapper_cfg: mmengine's ``optim_wrapper``; its optimizer must have ``lr``.
        paramwise_cfg: These settings, and those of mmengine's default constructor, whose factors for
            learning rates multiply with the decay.

            - ``decay_rate``: between two layers, above 0 and at most 1.
            - ``decay_type``: 'layer_wise' for a layer per block, 'stage_wise' for a layer per level.
              Default: 'layer_wise'.
            - ``num_layers``: number of layers. Default: the number of blocks or of levels. With fewer than
              there are blocks, neighboring blocks share a layer. With more than there are levels, the last
              level is that many layers further from the heads.

    Raises:
        ValueError: If a setting is missing, unknown or does not fit the backbone, or the model has none of
            our backbones.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        owner, settings = type(self).__name__, self.paramwise_cfg
        known = (*_SETTINGS, *_SETTINGS_OF_MMENGINE)
        for name in settings:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f'the nearest is {nearest[0]!r}' if nearest else f'known are {", ".join(known[:-1])}'
                raise ValueError(f'{owner} knows no paramwise_cfg.{name}; {hint}')
        if 'decay_rate' not in settings:
            raise ValueError(f'{owner} needs paramwise_cfg.decay_rate, for example 0.9')
        rate, kind = settings['decay_rate'], settings.get('decay_type', 'layer_wise')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f'paramwise_cfg.decay_rate must be above 0 and at most 1, got {rate!r}')
        if kind not in DECAY_TYPES:
            names = ' or '.join(map(repr, DECAY_TYPES))
            raise ValueError(f'paramwise_cfg.decay_type must be {names}, got {kind!r}')
        number = settings.get('num_layers')
        if number is not None and (type(number) is not int or number < 1):
            raise ValueError(f'paramwise_cfg.num_layers must be a positive number, got {number!r}')
        if self.base_lr is None:
            raise ValueError(f'{owner} needs optim_wrapper.optimizer.lr')

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: Any = None
    ) -> None:
        """Add the groups of parameters of a model, one for each combination of settings.

        Args:
            params: The list of groups, which is extended.
            module: The model, or a part of it if there is a prefix.
            prefix: Where the part is in the model.
            is_dcn_module: Whether the part is in a deformable convolution.
        """
        super().add_params(params, module, prefix, is_dcn_module)
        if not prefix:  # all parts of the model are in the list, each parameter in its own group
            params[:] = self._with_decay(params, module)

    def _with_decay(self, params: list[dict], model: nn.Module) -> list[dict]:
        factors = dict(self._factors(model))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups: dict[str, dict] = {}
        rate: Any = self.base_lr
        for group in params:
            (parameter,) = group['params']
            name = names.pop(id(parameter), None)
            if name is None:  # shared, and already in a group
                continue
            settings = {key: value for key, value in group.items() if key != 'params'}
            settings['lr'] = settings.get('lr', rate) * factors.get(id(parameter), 1.0)
            if parameter.ndim < 2 or name.endswith(('.bias', '.rpb')):
                settings['weight_decay'] = 0.0
            joined = groups.setdefault(repr(sorted(settings.items())), dict(params=[], **settings))
            joined['params'].append(parameter)
        rates = sorted({group['lr'] for group in groups.values()})
        print_log(f'learning rates by layer: {", ".join(f"{rate:.3g}" for rate in rates)}', 'current')
        return list(groups.values())

    def _factors(self, model: nn.Module) -> Iterator[tuple[int, float]]:
        """Give the ids of the parameters in the layers of our backbones, and the factors of their rates."""
        backbones = [part for part in model.modules() if isinstance(part, NeighborhoodBackbone)]
        if not backbones:
            raise ValueError(f'{type(self).__name__} finds no NAT, DiNAT or DiNAT_s in the model')
        for backbone in backbones:
            number, layers = self._layers(backbone)
            for part, layer in _parts(backbone, layers):
                factor = self.paramwise_cfg['decay_rate'] ** (number + 1 - layer)
                yield from ((id(parameter), factor) for parameter in part.parameters())

    def _layers(self, backbone: NeighborhoodBackbone) -> tuple[int, list[int]]:
        """The number of layers, and the layer of each block."""
        depths = [len(level.blocks) for level in getattr(backbone, backbone.levels_name)]
        blocks, wanted = sum(depths), self.paramwise_cfg.get('num_layers')
        if self.paramwise_cfg.get('decay_type') == 'stage_wise':
            if wanted is not None and wanted < len(depths):
                raise ValueError(
                    f"paramwise_cfg.num_layers must be at least {len(depths)} with decay_type 'stage_wise',"
                    f' one for each level, got {wanted}'
                )
            layers = [level for level, depth in enumerate(depths, 1) for _ in range(depth)]
            return wanted or len(depths), layers
        if wanted is not None and wanted > blocks:
            raise ValueError(
                f'paramwise_cfg.num_layers must be at most {blocks}, the number of blocks of '
                f'{type(backbone).__name__}, got {wanted}'
            )
        number = wanted or blocks
        return number, [1 + block * number // blocks for block in range(blocks)]


def _parts(backbone: NeighborhoodBackbone, layers: list[int]) -> Iterator[tuple[nn.Module, int]]:
    """Give the stem, the blocks and the downsamplings with their layers."""
    yield backbone.patch_embed, 0
    block = 0
    for level in getattr(backbone, backbone.levels_name):
        for part in level.blocks:
            yield part, layers[block]
            block += 1
        if level.downsample is not None:
            yield level.downsample, layers[block]
