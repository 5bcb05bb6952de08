"""The command `mmnat plot`, in the place that OpenMMLab has it in."""

from mmnat.commands.plot import main

if __name__ == '__main__':
    main()
