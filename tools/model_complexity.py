"""The command `mmnat count`, in the place that OpenMMLab has it in."""

from mmnat.commands.count import main

if __name__ == '__main__':
    main()
