"""Data that mmnat makes: the scenes of the demos, and label maps of COCO masks."""
