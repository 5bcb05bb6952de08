"""Generated scenes laid out like the data set fruits_nuts, for the configs in configs/fruits_nuts."""

import json
from pathlib import Path


def lay_out_fruits(scenes: Path, folder: Path) -> None:
    """Make ``folder`` of what :func:`mmnat.data.scenes.make_demo_data` wrote to ``scenes``."""
    folder.mkdir(parents=True)
    (folder / 'images').symlink_to(scenes / 'train')
    annotations = json.loads((scenes / 'annotations/instances_train.json').read_text())
    names = dict(enumerate(('date', 'fig', 'hazelnut'), 1))
    annotations['categories'] = [dict(id=i, name=name) for i, name in names.items()]
    annotations['annotations'] = [a for a in annotations['annotations'] if a['category_id'] in names]
    (folder / 'trainval.json').write_text(json.dumps(annotations))
