"""Panoptic quality (Kirillov et al., CVPR 2019) from the counts of matched and unmatched segments."""

from collections import defaultdict
from dataclasses import astuple, dataclass

OFFSET = 256**3
VOID = 0


@dataclass
class Counts:
    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def quality(self):
        recognized = self.tp / (self.tp + self.fp / 2 + self.fn / 2)
        segmented = self.iou / max(self.tp, 1)
        return dict(pq=segmented * recognized, sq=segmented, rq=recognized)


class PQStat:
    def __init__(self):
        self.counts = defaultdict(Counts)

    def __getitem__(self, category):
        return self.counts[category]

    def __iadd__(self, other):
        for category, counts in other.counts.items():
            sums = map(sum, zip(astuple(self.counts[category]), astuple(counts), strict=True))
            self.counts[category] = Counts(*sums)
        return self

    def pq_average(self, categories, isthing=None):
        classes = {}
        for number, category in categories.items():
            seen = any(astuple(self.counts[number]))
            if seen and (isthing is None or isthing == (category['isthing'] == 1)):
                classes[number] = self.counts[number].quality()
        size = max(len(classes), 1)
        means = {key: sum(c[key] for c in classes.values()) / size for key in ('pq', 'sq', 'rq')}
        return dict(means, n=len(classes)), classes
