"""What is trained: configs of mmdet and mmseg, each on the small data of one of this project's configs."""

from dataclasses import dataclass

_DEMO_INSTANCES = 'mask-rcnn_nat-demo_fpn_demo-instances'
_DEMO_SCENES = 'nat-demo_upernet_demo-scenes'
_FRUITS_NUTS_SCENES = 'nat-demo_upernet_fruits-nuts'
_FRUITS_NUTS = 'mask-rcnn_nat-demo_fpn_fruits-nuts'
#: The recipes by the data that they train on.
DEMO_RECIPES = (_DEMO_INSTANCES, _DEMO_SCENES)
FRUITS_NUTS_RECIPES = (_FRUITS_NUTS, _FRUITS_NUTS_SCENES)

_MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
_ATSS = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
_CONDINST = 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'
_SEMANTIC_FPN = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
_DEEPLAB = 'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'


@dataclass(frozen=True)
class Pair:
    """A model that is trained twice.

    Attributes:
        name: The name of the pair.
        config: Its config, with a ResNet, as ``mmnat swap`` accepts it.
        recipe: A config of this project with the data that both models are trained on.
        iterations: The length of the training.
        batch_size: Images per iteration.
    """

    name: str
    config: str
    recipe: str
    iterations: int
    batch_size: int = 4


PAIRS = (
    Pair('mask-rcnn_demo', _MASK_RCNN, _DEMO_INSTANCES, 400),
    Pair('atss_demo', _ATSS, _DEMO_INSTANCES, 400),
    Pair('condinst_demo', _CONDINST, _DEMO_INSTANCES, 400),
    Pair('mask-rcnn_fruits-nuts', _MASK_RCNN, _FRUITS_NUTS, 150, 2),
    Pair('atss_fruits-nuts', _ATSS, _FRUITS_NUTS, 150, 2),
    Pair('condinst_fruits-nuts', _CONDINST, _FRUITS_NUTS, 150, 2),
    Pair('semantic-fpn_demo', _SEMANTIC_FPN, _DEMO_SCENES, 400),
    Pair('deeplabv3plus_demo', _DEEPLAB, _DEMO_SCENES, 300),
    Pair('semantic-fpn_fruits-nuts', _SEMANTIC_FPN, _FRUITS_NUTS_SCENES, 120),
    Pair('deeplabv3plus_fruits-nuts', _DEEPLAB, _FRUITS_NUTS_SCENES, 120),
)
