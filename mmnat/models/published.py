"""The published ImageNet classifiers: their backbones, weights and figures.

Figures and links are from the README of SHI-Labs/Neighborhood-Attention-Transformer (arXiv 2204.07143 and
2209.15001). The published isotropic models have another architecture and are not here.
"""

from dataclasses import dataclass
from typing import Any

from .backbone import NeighborhoodBackbone
from .dinat_s import DiNAT_s
from .nat import NAT, DiNAT

_NAT = 'https://shi-labs.com/projects/nat/checkpoints/CLS/'
# The released code downloads files of these names; some of its tables have other names for DiNAT_s.
_DINAT = 'https://shi-labs.com/projects/dinat/checkpoints/imagenet1k/'


@dataclass(frozen=True)
class Classifier:
    """A published ImageNet-1k classifier.

    Attributes:
        backbone: Class of the backbone.
        arch: Variant of the backbone.
        resolution: Height and width of the images in pixels.
        params: Parameters in millions, with the classifier.
        macs: Multiply-accumulates in billions, with the classifier.
        top1: Accuracy in percent.
        checkpoint: URL of the weights.
        kernel_size: Size of the attention windows.
        layer_scale: As for :class:`mmnat.models.NAT`.
    """

    backbone: type[NeighborhoodBackbone]
    arch: str
    resolution: int
    params: float
    macs: float
    top1: float
    checkpoint: str
    kernel_size: int = 7
    layer_scale: float | None = None

    def build(self, **settings: Any) -> NeighborhoodBackbone:
        """Build the backbone with one output, whose norm is the classifier's."""
        if self.backbone is not NAT:
            # No parameter and no count depends on the dilation as long as windows fit.
            depths = self.backbone.arch_zoo[self.arch]['depths']
            settings.setdefault('dilations', [[1] * depth for depth in depths])
        return self.backbone(
            arch=self.arch,
            kernel_size=self.kernel_size,
            layer_scale=self.layer_scale,
            out_indices=(3,),
            **settings,
        )


#: Name to model.
# fmt: off
CLASSIFIERS = {
    'nat_mini': Classifier(NAT, 'mini', 224, 20.0, 2.7, 81.8, _NAT + 'nat_mini.pth'),
    'nat_tiny': Classifier(NAT, 'tiny', 224, 28.0, 4.3, 83.2, _NAT + 'nat_tiny.pth'),
    'nat_small': Classifier(NAT, 'small', 224, 51.0, 7.8, 83.7, _NAT + 'nat_small.pth', layer_scale=1e-5),
    'nat_base': Classifier(NAT, 'base', 224, 90.0, 13.7, 84.3, _NAT + 'nat_base.pth', layer_scale=1e-5),
    'dinat_mini': Classifier(DiNAT, 'mini', 224, 20.0, 2.7, 81.8, _DINAT + 'dinat_mini_in1k_224.pth'),
    'dinat_tiny': Classifier(DiNAT, 'tiny', 224, 28.0, 4.3, 82.7, _DINAT + 'dinat_tiny_in1k_224.pth'),
    'dinat_small': Classifier(DiNAT, 'small', 224, 51.0, 7.8, 83.8, _DINAT + 'dinat_small_in1k_224.pth'),
    'dinat_base': Classifier(DiNAT, 'base', 224, 90.0, 13.7, 84.4,
        _DINAT + 'dinat_base_in1k_224.pth', layer_scale=1e-5),
    'dinat_large': Classifier(DiNAT, 'large', 224, 200.0, 30.6, 86.6,
        _DINAT + 'dinat_large_in22k_in1k_224.pth'),
    'dinat_large_384': Classifier(DiNAT, 'large', 384, 200.0, 89.7, 87.4,
        _DINAT + 'dinat_large_in22k_in1k_384.pth'),
    'dinat_large_384_11x11': Classifier(DiNAT, 'large', 384, 200.0, 92.4, 87.5,
        _DINAT + 'dinat_large_in22k_in1k_384_11x11.pth', kernel_size=11),
    'dinat_s_tiny': Classifier(DiNAT_s, 'tiny', 224, 28.0, 4.5, 81.8, _DINAT + 'dinat_s_tiny_in1k_224.pth'),
    'dinat_s_small': Classifier(DiNAT_s, 'small', 224, 50.0, 8.7, 83.5,
        _DINAT + 'dinat_s_small_in1k_224.pth'),
    'dinat_s_base': Classifier(DiNAT_s, 'base', 224, 88.0, 15.4, 83.8,
        _DINAT + 'dinat_s_base_in1k_224.pth'),
    'dinat_s_large': Classifier(DiNAT_s, 'large', 224, 197.0, 34.5, 86.5,
        _DINAT + 'dinat_s_large_in1k_224.pth'),
    'dinat_s_large_384': Classifier(DiNAT_s, 'large', 384, 197.0, 101.5, 87.4,
        _DINAT + 'dinat_s_large_in1k_384.pth'),
}
# fmt: on
