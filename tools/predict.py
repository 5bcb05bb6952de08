"""The command `mmnat predict`, in the place that OpenMMLab has it in."""

from mmnat.commands.predict import main

if __name__ == '__main__':
    main()
