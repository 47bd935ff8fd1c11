"""`make fuzz`: libFuzzer, by way of atheris, over the STOMP parser, guided by what it covers.

It starts from `tests/fuzz/corpus`, which it does not touch. Where it finds something, it writes the input into a file,
names it and ends with 77: fix the fault, and add the file to the corpus, which every `make test` replays.
"""

import argparse
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """Fuzz for some seconds; does not return where atheris is here, which ends the process itself."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=180, metavar="N", help="how long (default 180)")
    parser.add_argument("--found", type=Path, default=Path("."), metavar="DIR", help="where to write what is found")
    parser.add_argument("--grow", type=Path, metavar="DIR", help="keep inputs that covered something new here")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("fuzz: atheris is not installed; it has wheels for Linux on x86-64 with CPython 3.11 to 3.13")
        return 1
    with atheris.instrument_imports(include=["apps.stomp.protocol"]):
        from tests.fuzz.target import check

    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        grown = options.grow or Path(scratch)
        grown.mkdir(parents=True, exist_ok=True)
        arguments = [
            *(f"-max_total_time={options.seconds}", "-max_len=2000", "-timeout=20", "-print_final_stats=1"),
            *("-verbosity=0", f"-artifact_prefix={options.found}/", str(grown), str(CORPUS)),
        ]
        atheris.Setup([sys.argv[0], *arguments], check)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
