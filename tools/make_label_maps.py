"""The command `mmnat label-maps`, in the place that OpenMMLab has it in."""

from mmnat.commands.label_maps import main

if __name__ == '__main__':
    main()
