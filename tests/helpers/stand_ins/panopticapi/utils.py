"""Segment ids and the colors that label maps store them in."""

import numpy as np

BASES = 256 ** np.arange(3)


def rgb2id(colors):
    return (np.asarray(colors, np.int64) * BASES).sum(axis=-1)


def id2rgb(ids):
    return (np.asarray(ids)[..., None] // BASES % 256).astype(np.uint8)
