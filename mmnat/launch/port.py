"""Checks that the processes of a run can connect through a port: ``python -m mmnat.launch.port PORT``."""

import socket
import sys
from collections.abc import Sequence

from mmnat.errors import UserError, report_user_errors


def check_port(port: str) -> None:
    """Raise :class:`UserError` if a run cannot listen on a port.

    Args:
        port: The number of the port.
    """
    remedy = 'choose another, for example PORT=29501 before the command'
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UserError(f'PORT = {port!r} is not a number from 1 to 65535', remedy)
    with socket.socket() as listener:
        # As torch does: connections of a run that has just ended do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(('', int(port)))
            listener.listen()
        except PermissionError as error:
            raise UserError(f'port {port} needs the rights of root', remedy) from error
        except OSError as error:
            raise UserError(f'port {port} is in use, perhaps by another run', remedy) from error


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Check the port that the command line names."""
    (port,) = sys.argv[1:] if argv is None else argv
    check_port(port)


if __name__ == '__main__':
    main()
