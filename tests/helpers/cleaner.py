"""Cleans up after a test, also if the process of the test is killed."""

import subprocess


class Cleaner:
    """A process that runs a shell program at ``close``, or when the process that made it ends.

    Args:
        program: The program.
        *arguments: Its ``$1``, ``$2`` and so on.
    """

    def __init__(self, program: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            ['bash', '-c', f'cat > /dev/null\n{program}', 'cleaner', *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """Clean up."""
        self._process.stdin.close()
        self._process.wait(60)
