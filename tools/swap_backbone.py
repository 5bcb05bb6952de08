"""The command `mmnat swap`, in the place that OpenMMLab has it in."""

from mmnat.commands.swap import main

if __name__ == '__main__':
    main()
