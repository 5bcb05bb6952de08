"""What users call, for either framework."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.utils import import_modules_from_strings

from .framework import Framework
from .inherit import changed_fields
from .rewrite import swap


def calls_for(framework: Framework) -> tuple[Callable[..., Config], Callable[..., dict[str, Any]]]:
    """Make ``swap_backbone`` and ``swapped`` for a framework."""

    def swap_backbone(
        cfg: Config,
        backbone: str | Mapping[str, Any],
        pretrained: str | None = 'published',
        optimizer: str = 'keep',
    ) -> Config:
        """Swap the backbone of a config for one of ours, and log what changed and why.

        Args:
            cfg: the config, left as it is.
            backbone: a variant such as 'nat_tiny', or the backbone's config, ``dict(type='DiNAT', ...)``.
            pretrained: 'published' for the variant's ImageNet weights, a file or URL, or None to train from
                scratch. Default: 'published'.
            optimizer: 'keep' to keep the config's own, 'nat' for the published AdamW. Default: 'keep'.

        Returns:
            The new config.

        Raises:
            SwapRefused: where the result would make no sense; the message says why.
        """
        new, report = swap(cfg, framework, backbone, pretrained, optimizer)
        print_log(f'backbone swapped:\n{report}', logger='current')
        return new

    def swapped(
        base: Mapping[str, Any], backbone: str | Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        """What a config adds to the one it inherits, ``globals().update(swapped(_base_, 'nat_tiny'))``.

        Args:
            base: mmengine's ``_base_``.
            backbone: see ``swap_backbone``.
            options: see there.
        """
        if base.get('custom_imports'):  # mmengine has not seen to them yet
            import_modules_from_strings(**base['custom_imports'])
        return changed_fields(base, swap(base, framework, backbone, **options)[0])

    return swap_backbone, swapped
