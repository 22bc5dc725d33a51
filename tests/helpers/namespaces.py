"""Linux namespaces that last as long as the one process that holds them."""

import subprocess

import psutil


def shell(*command, text=None):
    """Run a command, or say why it failed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class Namespaces:
    """Namespaces that live as long as a shell that was started in them."""

    def __init__(self, kinds, script):
        command = ["unshare", *kinds, *(["--fork", "--mount-proc"] if "--pid" in kinds else [])]
        self._process = subprocess.Popen(
            [*command, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for the tests, which then end this
        )
        said = self._process.stdout.readline().decode().strip()
        if said != "up":
            self.end()
            raise OSError(f"namespaces are refused: {said}")
        inside = psutil.Process(self._process.pid)
        self.pid = inside.children()[0].pid if "--pid" in kinds else inside.pid
        self.enter = ("nsenter", f"--target={self.pid}", *kinds)

    def end(self):
        """End every process inside; the kernel removes the rest."""
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def signal_inside(process, number):
    """Send a signal to what ``popen`` has started: it runs below the program that got it there."""
    for child in psutil.Process(process.pid).children():
        child.send_signal(number)
