"""Files that have the name of another but for the suffix."""

import os
import os.path as osp
import re


def similar_file(path: str) -> str:
    """For a message: a file that has the name of a missing one but for the suffix, if there is one."""
    stem, folder = osp.splitext(osp.basename(path))[0], osp.dirname(path) or '.'
    names = sorted(os.listdir(folder)) if stem and osp.isdir(folder) else []
    return next((f'; there is {osp.join(folder, n)}' for n in names if belongs_to(n, {stem})), '')


def belongs_to(name: str, stems: set[str]) -> bool:
    """Whether a name begins with one of some stems: a.png and a_depth.png do with a."""
    return any(name[: match.start()] in stems for match in re.finditer(r'[._-]', name))
