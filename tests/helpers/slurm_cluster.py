"""A Slurm of one machine that lasts as long as a ``with`` block: munge, a controller and a node."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from cleaner import Cleaner

from mmnat.launch.processes import end_with_parent

INSTALL = 'apt-get install -y slurm-wlm munge'
NODE = 'node01'  # not the name of a host, as on clusters whose names have no DNS
CPUS, GPUS = 4, 4
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=1,bf_interval=1
GresTypes=gpu
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

# Jobs outlive the daemons. Twice: what is being started is found at the second time.
KILL_ALL = """
for _ in 1 2; do
    for folder in /proc/[0-9]*; do
        grep -qzxF "SLURM_CONF=$1" "$folder/environ" && kill -KILL "${folder#/proc/}"
    done
    sleep 0.2
done
"""


def what_is_missing() -> str:
    """Why Slurm cannot run here; empty if it can."""
    if sys.platform != 'linux' or os.geteuid() != 0:
        return f'needs Linux and root, and {INSTALL}'
    programs = ('slurmctld', 'slurmd', 'munged', 'srun', 'sbatch')
    absent = [name for name in programs if _program(name) is None]
    return f'needs {", ".join(absent)}: {INSTALL}' if absent else ''


def _program(name: str) -> str | None:
    return shutil.which(name, path=f'{os.environ["PATH"]}:/usr/sbin:/sbin')


class Cluster:
    """A Slurm whose files are in a folder. GPUs are files with their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | dict(SLURM_CONF=str(folder / 'slurm.conf'), OMP_NUM_THREADS='1')
        self.environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> 'Cluster':
        self._write_configuration()
        self._cleaner = Cleaner(KILL_ALL, self.environment['SLURM_CONF'])
        try:
            self._start('munged', '-F', '--force', *self._munge_files())
            self._wait(lambda: (self.folder / 'munge.socket').exists())
            self._start('slurmctld', '-D')
            self._start('slurmd', '-D')
            self._wait(lambda: 'idle' in self.run('sinfo', '-h').stdout)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.run('scancel', '--user=root', '--signal=KILL', '--full')
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._cleaner.close()

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess:
        """Run one of Slurm's commands; its output is text."""
        options = dict(capture_output=True, text=True, timeout=60, env=self.environment) | options
        return subprocess.run(command, **options)

    def state(self, job: str) -> str:
        """For example RUNNING or COMPLETED."""
        found = re.search(r'JobState=(\w+)', self.run('scontrol', 'show', 'job', job).stdout)
        return found.group(1) if found else ''

    def processes(self, variable: str) -> list[int]:
        """Those of jobs and daemons that have a variable, given as NAME=VALUE, in the environment."""
        found = []
        for folder in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                variables = (folder / 'environ').read_bytes().decode(errors='replace').split('\0')
                is_ours = f'SLURM_CONF={self.environment["SLURM_CONF"]}' in variables
                if is_ours and variable in variables:
                    found.append(int(folder.name))
        return found

    def log(self) -> str:
        """The last lines of the daemons."""
        return '\n'.join(path.read_text()[-2000:] for path in self.folder.glob('*.log'))

    def _munge_files(self) -> list[str]:
        names = dict(key='key-file', socket='socket', pid='pid-file', seed='seed-file', out='log-file')
        return [f'--{option}={self.folder}/munge.{name}' for name, option in names.items()]

    def _write_configuration(self) -> None:
        for name in ('state', 'spool'):
            (self.folder / name).mkdir()
        key = self.folder / 'munge.key'
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        with socket.socket() as first, socket.socket() as second:
            for listener in (first, second):
                listener.bind(('127.0.0.1', 0))
            ports = [listener.getsockname()[1] for listener in (first, second)]
        host = socket.gethostname().partition('.')[0]
        names = dict(folder=self.folder, host=host, ports=ports, node=NODE, cpus=CPUS, gpus=GPUS)
        (self.folder / 'slurm.conf').write_text(CONFIG.format(**names))
        for number in range(GPUS):
            (self.folder / f'gpu{number}').touch()
        (self.folder / 'gres.conf').write_text(f'Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n')

    def _start(self, name: str, *options: str) -> None:
        with (self.folder / f'{name}.log').open('w') as log:
            self._daemons.append(
                subprocess.Popen(
                    [_program(name), *options],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
            )

    def _wait(self, is_ready, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not is_ready():
            assert all(daemon.poll() is None for daemon in self._daemons), self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)
