"""The command `mmnat convert`, in the place that OpenMMLab has it in."""

from mmnat.commands.convert import main

if __name__ == '__main__':
    main()
