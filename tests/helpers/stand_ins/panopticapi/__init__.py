"""What mmdet uses of panopticapi, which no package index has: for tests where it is not installed."""
