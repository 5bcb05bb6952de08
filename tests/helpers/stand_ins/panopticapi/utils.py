"""Segment ids and the colours that label maps store them in."""

import numpy as np

BASES = 256 ** np.arange(3)


def rgb2id(colours):
    return (np.asarray(colours, np.int64) * BASES).sum(axis=-1)


def id2rgb(ids):
    return (np.asarray(ids)[..., None] // BASES % 256).astype(np.uint8)
