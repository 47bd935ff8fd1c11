"""Make the virtual environment and install what is pinned: `python3 msgweb/bootstrap.py requirements.txt ...`.

Called by the Makefile before anything else, each time, and quick where nothing has changed. It must run on every
Python there may be, old ones too, so that they get one clear sentence: nothing newer than Python 2.7 is used here
before the version is known, and nothing but the standard library.
"""

import sys

sys.path.pop(0)  # this folder: its modules would hide those of the standard library that have the same names

import hashlib
import os
import shutil
import subprocess

OLDEST = (3, 11)
NEWEST_TO_TRY = 19
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "installed")


class Failed(Exception):
    """The message is one sentence for the person at the terminal."""


def ask(python, program):
    """The output of a Python one-liner under another interpreter; None where that is not there or fails."""
    try:
        asked = subprocess.Popen([python, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output = asked.communicate()[0].decode().strip()
    except OSError:
        return None
    return output if asked.returncode == 0 else None


def version_of(python):
    """Its version as a pair, or None."""
    text = ask(python, "import sys; print('%d %d' % sys.version_info[:2])")
    return tuple(int(part) for part in text.split()) if text else None


def find_python():
    """A Python that is new enough and can make virtual environments: this one, else one in PATH."""
    candidates = [sys.executable or "python3"]
    candidates += ["python3.%d" % minor for minor in range(OLDEST[1], NEWEST_TO_TRY)]
    incomplete = None
    for python in candidates:
        version = version_of(python)
        if version is not None and version >= OLDEST:
            if ask(python, "import venv, ensurepip") is not None:
                return python
            incomplete = incomplete or (python, version)
    if incomplete is not None:
        raise Failed(
            "%s cannot make virtual environments; install its venv package (Debian: apt-get install python%d.%d-venv)."
            % (incomplete[0], incomplete[1][0], incomplete[1][1])
        )
    raise Failed(
        "Msgweb needs Python %d.%d or newer; %s is %d.%d, and there is no newer one in PATH."
        % (OLDEST[0], OLDEST[1], sys.executable or "python3", sys.version_info[0], sys.version_info[1])
    )


def wanted(files):
    """What the stamp says when these files are installed by this interpreter."""
    lines = [ask(PYTHON, "import sys; print(sys.version)") or ""]
    for name in files:
        with open(os.path.join(ROOT, name), "rb") as file:
            lines.append("%s %s" % (name, hashlib.sha256(file.read()).hexdigest()))
    return lines


def stamped():
    """The lines of the stamp; none where nothing was installed."""
    try:
        with open(STAMP) as file:
            return file.read().splitlines()
    except (IOError, OSError):
        return []


def run(command, what):
    """Run a command quietly; its output is shown only when it fails."""
    try:
        started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output = started.communicate()[0].decode("utf-8", "replace")
    except OSError as error:
        raise Failed("%s failed: %s." % (what, error))
    if started.returncode:
        sys.stderr.write(output)
        raise Failed("%s failed; the reason stands above." % what)


def install(files):
    """Bring .venv to what the files pin."""
    usable = version_of(PYTHON)
    if usable is not None and usable >= OLDEST and ask(PYTHON, "import pip") is not None:
        before = stamped()
        lines = wanted(files)
        if before[:1] == lines[:1] and all(line in before for line in lines):
            return
    else:
        python = find_python()
        before = []
        say("Making the virtual environment .venv ...")
        try:
            if os.path.isdir(VENV):
                shutil.rmtree(VENV)
            elif not os.access(ROOT, os.W_OK):
                raise OSError("the folder cannot be written to")
        except OSError as error:
            raise Failed("Cannot make the virtual environment in %s: %s." % (ROOT, error))
        run([python, "-m", "venv", VENV], "Making the virtual environment")
        lines = wanted(files)
    if os.path.exists(STAMP):
        os.remove(STAMP)  # an interrupted installation must not look complete
    say("Installing %s ..." % " and ".join(files))
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    for name in files:
        command += ["-r", name]
    run(command, "Installing")
    kept = [line for line in before[1:] if line.split(" ")[0] not in files] if before[:1] == lines[:1] else []
    with open(STAMP, "w") as file:
        file.write("\n".join(lines + kept) + "\n")


def say(text):
    """Tell what takes long."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main():
    """Install the files named on the command line."""
    try:
        install(sys.argv[1:])
    except Failed as error:
        sys.stderr.write("msgweb: %s\n" % error)
        return 1
    except (IOError, OSError) as error:
        sys.stderr.write("msgweb: Cannot install into %s: %s.\n" % (VENV, error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
