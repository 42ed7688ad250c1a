"""Models of learned prompts where nothing of the project is: loaded, asked by MLflow, served."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learned import NAMES, load_job, write_prompts
from PIL import Image
from samples import write_image_folder

from ssprompt_platform.use.served import write_model

_PATIENCE = 120


@dataclass(frozen=True)
class Case:
    """A model, pictures, and what the job writes for them."""

    model: Path
    images: dict[str, Path]
    masks: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("served") / "a folder"
    prompts = write_prompts(folder / "ssprompt-k2-d0.safetensors")
    write_model(folder / "model", prompts, study_id="ours")
    write_image_folder(folder / "data", count=2)
    images = folder / "data" / "images"
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 256, (4, 9, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(images / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(wide[..., 0]).save(images / "grey.png")
    found = sorted(images.iterdir())
    words = ["--prompts", str(prompts), "--images", str(images), "--output", str(folder / "out")]
    # one at a time, as the model does: sums of a batch may round another way
    assert load_job("predict").main([*words, "--batch-size", "1"]) == 0
    masks = {p.name: mask_of(folder / "out" / "masks" / f"{p.stem}.png") for p in found}
    assert masks["turned.jpg"].shape == (90, 40)
    return Case(folder / "model", {p.name: p for p in found}, masks)


def mask_of(file: Path | io.BytesIO) -> np.ndarray:
    with Image.open(file) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def check_answer(row: dict[str, Any], expected: np.ndarray) -> None:
    """A row of the answer is the class map that the job writes, and says what is in it."""
    found = mask_of(io.BytesIO(base64.b64decode(row["mask_png"], validate=True)))
    assert np.array_equal(found, expected)
    assert [(c["id"], c["name"]) for c in row["classes"]] == list(enumerate(NAMES))
    shares = np.bincount(expected.ravel(), minlength=len(NAMES)) / expected.size
    assert [c["share"] for c in row["classes"]] == pytest.approx(shares.tolist())


@dataclass(frozen=True)
class Clean:
    """A Python with the same packages as this one, but without the project."""

    python: Path
    environment: dict[str, str]

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), *words],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    folder = tmp_path_factory.mktemp("clean") / "env"
    venv.create(folder, symlinks=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # named in a .pth, a folder is searched, but the .pth files in it are not read: no editable
    # install; what pip would write for the command that MLflow starts is written by hand
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    command = folder / "bin" / "uvicorn"
    command.write_text(f"#!{python}\nimport sys\nfrom uvicorn.main import main\nsys.exit(main())\n")
    command.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SSPROMPT", "MLFL"))}
    environment = kept | {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    return Clean(python, environment)


IN_CLEAN_PROCESS = """
import importlib.util, json, sys
unpickled = []
sys.addaudithook(lambda e, a: unpickled.append(str(a)) if e == "pickle.find_class" else None)
assert all(importlib.util.find_spec(f"ssprompt_{name}") is None for name in ("core", "platform"))
import mlflow.pyfunc, pandas as pd, numpy as np
from PIL import Image
unpickled.clear()
folder, names, output = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
before = {name.partition(".")[0] for name in sys.modules}
model = mlflow.pyfunc.load_model(folder)
files = [open(name, "rb").read() for name in names]
answers = model.predict(pd.DataFrame({"image": files})).to_dict("records")
again = model.predict({"image": [np.asarray(Image.open(names[0])), files[-1]]}).to_dict("records")
assert again == [answers[0], answers[-1]]
import ssprompt_core
result = {
    "answers": answers,
    "unpickled": unpickled,
    "core": ssprompt_core.__file__,
    "metadata": model.metadata.metadata,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules} - before),
}
json.dump(result, open(output, "w"))
"""


def test_a_clean_process_gives_the_class_maps_of_the_job(
    case: Case, clean: Clean, tmp_path: Path
) -> None:
    names = json.dumps([str(path) for path in case.images.values()])
    words = (str(case.model), names, str(tmp_path / "result.json"))
    done = clean.run("-c", IN_CLEAN_PROCESS, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    for row, expected in zip(result["answers"], case.masks.values(), strict=True):
        check_answer(row, expected)
    assert {c for mask in case.masks.values() for c in np.unique(mask)} == {0, 1, 2}
    assert Path(result["core"]).is_relative_to(case.model / "code")
    assert result["unpickled"] == []
    metadata = result["metadata"]
    said = {key: metadata[key] for key in ("study_id", "method", "shots", "draw", "miou")}
    expected_words = {"study_id": "ours", "method": "linear_probe", "shots": 2, "draw": 0}
    assert said == expected_words | {"miou": 0.25}
    assert [entry["name"] for entry in metadata["classes"]] == list(NAMES)
    # of all that the project depends on, a model takes only what its requirements name
    unnamed = {"ray", "optuna", "omegaconf", "boto3", "rich", "pycocotools", "matplotlib", "scipy"}
    assert unnamed.isdisjoint(result["loaded"])


def request_of(case: Case, form: str, names: list[str]) -> dict[str, Any]:
    texts = [base64.b64encode(case.images[name].read_bytes()).decode() for name in names]
    if form == "dataframe_split":
        return {form: {"columns": ["image"], "data": [[text] for text in texts]}}
    if form == "inputs":
        return {form: {"image": texts}}
    return {form: [{"image": text} for text in texts]}


def test_mlflow_models_predict_in_a_clean_process(case: Case, clean: Clean, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(
        json.dumps(request_of(case, "dataframe_split", ["grey.png", "turned.jpg"]))
    )
    words = ["-m", str(case.model), "-i", "in.json", "-o", "out.json", "--env-manager", "local"]
    done = clean.run("-m", "mlflow", "models", "predict", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    grey, turned = json.loads((tmp_path / "out.json").read_text())["predictions"]
    check_answer(grey, case.masks["grey.png"])
    check_answer(turned, case.masks["turned.jpg"])


@pytest.fixture
def server(case: Case, clean: Clean, tmp_path: Path) -> Iterator[str]:
    """The address of a running ``mlflow models serve``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "mlflow", "models", "serve", "-m", str(case.model), "--env-manager", "local"]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [str(clean.python), *words, "--host", "127.0.0.1", "--port", str(port)],
            cwd=tmp_path,
            env=clean.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process, tmp_path / "log.txt")
            yield f"http://127.0.0.1:{port}"
        finally:
            # the command starts the server as a process of its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    until = time.monotonic() + _PATIENCE
    while accepts(port):
        assert time.monotonic() < until, "the server outlives the command"
        time.sleep(0.05)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address):
                return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def post(address: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"{address}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_mlflow_models_serve_answers_every_form_of_request(case: Case, server: str) -> None:
    names = ["turned.jpg", "frame00.png"]
    forms = ("dataframe_split", "dataframe_records", "inputs", "instances")
    with ThreadPoolExecutor(len(forms)) as pool:
        answers = list(pool.map(lambda form: post(server, request_of(case, form, names)), forms))
    for status, answer in answers:
        assert status == 200, answer
        for row, name in zip(answer["predictions"], names, strict=True):
            check_answer(row, case.masks[name])
    good = request_of(case, "dataframe_records", names)["dataframe_records"]
    text = base64.b64encode(b"no picture").decode()
    status, answer = post(server, {"dataframe_records": [*good, {"image": text}]})
    assert status == 400
    assert "row 2 of 'image' is not a readable image" in answer["message"]
    assert "Traceback" not in json.dumps(answer)
    status, answer = post(server, {"dataframe_records": [{"picture": text}]})
    assert status == 400
    assert "missing inputs ['image']" in answer["message"]
    status, _ = post(server, request_of(case, "inputs", names))
    assert status == 200, "the server does not survive a mistake"
