"""The command `mmnat test`, in the place that OpenMMLab has it in."""

from mmnat.commands.test import main

if __name__ == '__main__':
    main()
