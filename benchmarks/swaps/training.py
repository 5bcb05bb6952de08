"""One training by `mmnat train` in its own process. A finished training is not repeated."""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError


@dataclass(frozen=True)
class Training:
    """A config that is trained.

    Attributes:
        config: The config file.
        work_dir: The folder for all results.
    """

    config: Path
    work_dir: Path

    @property
    def log(self) -> Path:
        """The file with what the training printed."""
        return self.work_dir / 'printed.log'

    def result(self) -> dict[str, Any] | None:
        """Metrics and minutes, None if no training with this config has finished."""
        if not self._result.is_file():
            return None
        found = json.loads(self._result.read_text())
        return found['result'] if found['config'] == self._digest() else None

    def run(self, threads: int) -> dict[str, Any]:
        """Train and evaluate.

        Args:
            threads: The number of threads for the training.

        Returns:
            The metrics of the last evaluation, and ``minutes``.

        Raises:
            UserError: If the training fails.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        variables = {name: str(threads) for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')}
        start = time.monotonic()
        with self.log.open('w') as log:
            code = subprocess.run(
                [
                    sys.executable,
                    '-m',
                    'mmnat',
                    'train',
                    str(self.config),
                    '--work-dir',
                    str(self.work_dir),
                ],
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            ).returncode
        if code:
            last = (self.log.read_text().strip().splitlines() or ['it printed nothing'])[-1]
            raise UserError(
                f'the training of {self.config} ended with code {code}: {last}', f'see {self.log}'
            )
        result = self._metrics() | dict(minutes=(time.monotonic() - start) / 60)
        with atomic_write(self._result) as unfinished:
            unfinished.write_text(json.dumps(dict(config=self._digest(), result=result), indent=2))
        return result

    @property
    def _result(self) -> Path:
        return self.work_dir / 'result.json'

    def _digest(self) -> str:
        return hashlib.sha256(self.config.read_bytes()).hexdigest()

    def _metrics(self) -> dict[str, Any]:
        """The last record of the run's log, which is its evaluation."""
        log = max(self.work_dir.glob('*/vis_data/scalars.json'))
        record = json.loads(log.read_text().splitlines()[-1])
        # A detector that finds nothing has no metrics.
        return {name.rpartition('/')[2]: value for name, value in record.items() if name != 'step'}
