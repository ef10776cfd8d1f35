"""Creates the files of the container image as deploy/Containerfile describes them, without a container runtime.

The script reads the instructions of the final stage and creates its files in an empty directory. It builds the binary
from exactly the files that the build stage copies, but without optimisation.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

TOP = pathlib.Path(__file__).resolve().parent.parent
CONTAINERFILE = TOP / "deploy/Containerfile"


class Wrong(Exception):
    """A difference between a promise of deploy/ and the result."""


def require(holds, otherwise):
    if not holds:
        raise Wrong(otherwise)


def say(what):
    print(f"deploy: {what}", flush=True)


def instructions(text):
    """The instructions of a Containerfile as (name, rest), comments and line breaks removed."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages(text):
    """The two stages, each a list of instructions that begins with its FROM."""
    found = []
    for name, rest in instructions(text):
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    require(len(found) == 2, f"{len(found)} stages, this test knows two")
    build, final = found
    require(build[0][1].endswith(" AS build"), "the first stage is not called build")
    require(final[0][1] == "scratch", "the final stage does not begin empty")
    return build, final


def copy(source, target):
    """The rule of COPY: a directory is copied as its contents, and a target with a slash at its end is a directory."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def copies(stage):
    """The COPY instructions of a stage as (stage named or None, sources, target)."""
    for name, rest in stage:
        require(name not in ("ADD", "VOLUME"), f"this test does not know {name}")
        if name != "COPY":
            continue
        words = shlex.split(rest)
        origin = None
        if words[0].startswith("--from="):
            origin = words.pop(0).removeprefix("--from=")
        require(not words[0].startswith("--"), f"this test does not know COPY {words[0]}")
        yield origin, words[:-1], words[-1]


def place(base, target, source, several):
    """The path of a source after COPY."""
    into = base / target.lstrip("/")
    if (target.endswith("/") or several) and not source.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        return into / source.name
    return into


def build(stage, scratch):
    """Builds the binary from the files that the build stage copies, and creates the root of the image."""
    source = scratch / "src"
    source.mkdir()
    for origin, sources, target in copies(stage):
        require(origin is None, "the build stage copies from another stage")
        for name in sources:
            here = TOP / name
            copy(here, place(source, target.removeprefix("./"), here, len(sources) > 1))
    runs = [shlex.split(rest) for name, rest in stage if name == "RUN"]
    require(
        runs == [
            ["cargo", "build", "--release", "--locked", "--bin", "sidegate"],
            ["deploy/image-root", "target/release/sidegate", "/image"],
        ],
        f"the build stage runs something this test does not repeat: {runs}",
    )
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")).resolve()
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    command = ["cargo", "build", "--quiet", "--locked", "--bin", "sidegate"]
    subprocess.run(command, cwd=source, env=environment, check=True)
    image = scratch / "image"
    command = ["deploy/image-root", str(target / "debug/sidegate"), str(image)]
    subprocess.run(command, cwd=source, check=True)
    return image


def assemble(scratch):
    """The root of the image and its configuration, from the final stage."""
    stage_build, stage_final = stages(CONTAINERFILE.read_text())
    image = build(stage_build, scratch)
    root = scratch / "root"
    root.mkdir(mode=0o755)
    for origin, sources, target in copies(stage_final):
        for name in sources:
            if origin is None:
                source = TOP / name
            elif name.startswith("/image"):
                source = image / name.removeprefix("/image").lstrip("/")
            else:
                source = pathlib.Path(name)
            require(source.exists(), f"COPY {name}: there is no such file")
            copy(source, place(root, target, source, len(sources) > 1))
    stated = dict(stage_final)
    for name in ("USER", "ENTRYPOINT"):
        require(name in stated, f"the image states no {name}")
    user = [int(number) for number in stated["USER"].split(":")]
    require(len(user) == 2 and 0 not in user, "the image's user is root or has no group")
    return root, {"user": user, "entrypoint": json.loads(stated["ENTRYPOINT"])}


def inspect(root):
    """Checks the files that must and must not be in the image."""
    total = 0
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        inside = path.relative_to(root)
        require(not mode & 0o6000, f"/{inside} is setuid or setgid")
        require(path.is_symlink() or not mode & 0o002, f"/{inside} is writable by everyone")
        program = path.is_file() and mode & 0o111 and ".so" not in path.name
        require(not program or str(inside) == "usr/bin/sidegate", f"/{inside} is a program")
        total += path.lstat().st_size if path.is_file() else 0
    authorities = root / "etc/ssl/certs/ca-certificates.crt"
    require("BEGIN CERTIFICATE" in authorities.read_text(), "no certificate authorities")
    for text in ("LICENSE-APACHE", "LICENSE-MIT"):
        require((root / "licenses/sidegate" / text).is_file(), f"{text} is not in the image")
    libraries = sorted(path.name for path in root.rglob("*.so*"))
    say(f"image: one program, {', '.join(libraries)}, {total / 1e6:.0f} MB unoptimised")
