"""Parts shared by the command-line launchers in ``tools``."""
