"""Jupyter Server behind the gateway.

    python jupyter_server_app.py FOLDER

Reads its settings from `jupyter_server_config.py` in FOLDER, where everything else is written, too. Listens on a free
port of 127.0.0.1 and prints `ready URL`.
"""
import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1]).resolve()
os.environ["JUPYTER_CONFIG_DIR"] = str(FOLDER)
for name in ["DATA", "RUNTIME"]:
    os.environ[f"JUPYTER_{name}_DIR"] = str(FOLDER / name.lower())
os.environ["IPYTHONDIR"] = str(FOLDER / "ipython")

from jupyter_server.serverapp import ServerApp  # noqa: E402, because it reads the environment


def main():
    app = ServerApp.instance(root_dir=str(FOLDER), port=0, open_browser=False, allow_root=True)
    app.initialize([])
    print(f"ready http://{app.ip}:{app.port}", flush=True)
    app.start()


if __name__ == "__main__":
    main()
