"""NAT, DiNAT and DiNAT_s for mmdet and mmseg: models, weights, configs and the command ``mmnat``.

Importing it imports nothing else: the models are in :mod:`mmnat.models`, the operator is the package
``natten_ops``, and ``mmdet_nat`` and ``mmseg_nat`` register the backbones.
"""
