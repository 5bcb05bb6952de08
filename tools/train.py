"""The command `mmnat train`, in the place that OpenMMLab has it in."""

from mmnat.commands.train import main

if __name__ == '__main__':
    main()
