"""The command as a user meets it, in this process."""

from jssl import cli

TINY = "--config=configs/simclr_digits.py:tiny"


def jssl(capfd, *words):
    """(exit code, last line of stdout, stderr) of the command, in this process."""
    code = cli.main(list(words))
    out, err = capfd.readouterr()
    return code, out.splitlines()[-1] if out else "", err


def refused(capfd, *words):
    """The one line that the command ends with; it must be the user's fault."""
    code, out, err = jssl(capfd, *words)
    assert code == 2, err
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("jssl: ") and out == ""
    return line


def own_images(folder):
    return [
        TINY, "--config.data.source=folder", f"--config.data.path={folder}",
        "--config.data.split=train", "--config.data.on_device=false",
    ]  # fmt: skip
