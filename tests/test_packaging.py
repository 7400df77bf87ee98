"""The wheel holds what the source holds, and works outside the repository: in a clean virtual environment, too."""

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lightning_losses
from lightning_losses.catalogue.new_method import TEMPLATES
from lightning_losses.environment.extras import EXTRAS, advice
from tests.test_docs import HOMES, examples

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Where the name to import is not that of the distribution.
DISTRIBUTIONS = {"mlflow": "mlflow-skinny", "hydra": "hydra-core", "omegaconf": "hydra-core", "sklearn": "scikit-learn"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: building leaves folders behind.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source / name)
    for name in ("lightning_losses", "conf", "recipes", "hydra_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # By way of a source distribution: what that lacks, the wheel lacks.
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder / 'sdist')!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "sdist").glob("*.tar.gz")
    _pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder / "dist", archive)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def _pip(*arguments):
    command = [sys.executable, "-m", "pip", "--verbose", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # setuptools warns of folders that it does not know for packages, which a later version leaves out.
    assert "absent from the" not in done.stdout + done.stderr


def metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))


def requirements(message, extras):
    """The distributions that a distribution with these extras requires here, with the extras of each."""
    for line in message.get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ["", *extras]):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def installed(wheel, folder, extras=(), beside=(), like=None):
    """A virtual environment with the wheel, what it requires and what is named beside it: no checkout, and no more.

    Its requirements are links to those of this environment, so that nothing is downloaded. With `like`, the programs of
    another environment, the wheel is what pip has installed and compiled there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    own = PYPROJECT["project"]["name"]
    named = [(canonicalize_name(one.name), frozenset(one.extras)) for one in map(Requirement, beside)]
    done, todo = set(), [*requirements(metadata(wheel), extras), *named]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        if name == own:
            todo += requirements(metadata(wheel), wanted)
            continue
        found = distribution(name)
        todo += requirements(found.metadata, wanted)
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__", "hydra_plugins"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    programs = folder / "bin"
    if like is None:
        _pip("--python", programs / "python", "install", "--no-deps", "--no-index", wheel)
        return programs
    (there,) = (like.parent / "lib").glob("python*/site-packages")
    (information,) = there.glob("lightning_losses-*.dist-info")
    for place in (there / "lightning_losses", there / "hydra_plugins", information):
        (site / place.name).symlink_to(place)
    program = programs / "lightning-losses"
    # Its first line names its Python.
    program.write_text((like / program.name).read_text().replace(str(like), str(programs)))
    program.chmod(0o755)
    return programs


def start(command, folder):
    """Start a program where neither the repository nor what the tests have set is seen."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.slow
def test_the_wheel_holds_code_configuration_and_recipes(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_losses").rglob("*.py")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "hydra_plugins").rglob("*.py")}
    beside = [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "recipes").rglob("*.py")]
    expected |= {f"lightning_losses/{path.relative_to(ROOT)}" for path in beside}
    assert expected <= names
    sources = [path for end in ("cpp", "hpp") for path in (ROOT / "lightning_losses").rglob(f"*.{end}")]
    assert {"lightning_losses/py.typed", *(str(path.relative_to(ROOT)) for path in sources)} <= names
    assert {f"lightning_losses/catalogue/templates/{path.name}" for path in TEMPLATES.iterdir()} <= names
    # A file there would hide the plugins of others.
    assert "hydra_plugins/__init__.py" not in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lightning_losses", "hydra_plugins"}


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    message = metadata(wheel)
    assert message["Version"] == lightning_losses.__version__ == wheel.name.split("-")[1]
    assert message["License-Expression"] == "Apache-2.0" and message["License-File"] == "LICENSE"
    assert wheel.stat().st_size < 2_500_000
    assert {"Framework :: Hydra", "Typing :: Typed"} <= set(message.get_all("Classifier"))
    assert f"\n## {lightning_losses.__version__} " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("package", EXTRAS)
def test_an_extra_brings_what_its_advice_says(package):
    extra = re.search(r"pip install 'lightning-losses\[(\w+)\]'", advice(package))[1]
    brought = {
        canonicalize_name(Requirement(line).name) for line in PYPROJECT["project"]["optional-dependencies"][extra]
    }
    assert canonicalize_name(DISTRIBUTIONS.get(package, package)) in brought
    core = {canonicalize_name(Requirement(line).name) for line in PYPROJECT["project"]["dependencies"]}
    assert canonicalize_name(DISTRIBUTIONS.get(package, package)) not in core


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory):
    """The programs of an environment with the wheel and what the recipes need."""
    return installed(wheel, tmp_path_factory.mktemp("recipes") / "venv", ["recipes", "data"])


@pytest.mark.slow
def test_an_installed_wheel_trains_outside_the_repository(binaries, tmp_path):
    # One network: that the recipe trains three is not the wheel's matter.
    short = ["experiment=classify", "objective=ce", "data=digits", f"cache={tmp_path}/cache"]
    short += ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    code, _, err = finish(start([binaries / "lightning-losses", "train", *short], tmp_path))
    assert code == 0, err
    assert len(list((tmp_path / "outputs").rglob("report.md"))) == 1


@pytest.mark.slow
def test_an_application_with_its_own_configuration_takes_ours(binaries, tmp_path):
    shutil.copytree(ROOT / "docs" / "template", tmp_path / "template", ignore=shutil.ignore_patterns("__pycache__"))

    def application(*overrides):
        return start([binaries / "python", "train.py", *overrides], tmp_path / "template")

    runs = [
        application("-m", "objective@model.objective=nkd,ce", "hydra.sweep.dir=runs"),
        application("model.objective.terms.nkd.loss.temprature=2"),
    ]
    (code, _, err), wrong = map(finish, runs)
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "template" / "runs").iterdir() if path.is_dir()) == ["0", "1"]
    saved = (tmp_path / "template" / "runs" / "1" / ".hydra" / "config.yaml").read_text()
    # The library has a file of this name too: the application's own wins.
    assert "lightning.pytorch.callbacks.EarlyStopping" in saved and "GrokkingMonitor" in saved
    code, _, err = wrong
    assert code == 1 and "Traceback" not in err
    assert "Key 'temprature' not in 'NKD(gamma, temperature, ignore_index, reduction, shared_support)'" in err


@pytest.mark.slow
def test_the_pages_of_other_homes_run_from_an_installed_wheel(wheel, binaries, tmp_path):
    """In one process: Hugging Face with PEFT, its Trainer and accelerate; LightningCLI; two networks of timm."""
    beside = ["transformers", "peft", "accelerate", "jsonargparse[signatures]"]
    programs = installed(wheel, tmp_path / "venv", ["data", "timm"], beside, like=binaries)
    program = ["import sys", "import lightning_losses", "assert lightning_losses.__file__.startswith(sys.prefix)"]
    for page in HOMES:
        code = "\n".join(examples(ROOT / "docs" / page))
        assert code, page
        program += [f"exec(compile({code!r}, {page!r}, 'exec'), {{'__name__': 'page'}})", f"print('ran', {page!r})"]
    (tmp_path / "homes.py").write_text("\n".join(program))
    code, out, err = finish(start([programs / "python", "homes.py"], tmp_path))
    assert code == 0, err
    assert [line for line in out.splitlines() if line.startswith("ran ")] == [f"ran {page}" for page in HOMES]


CORE = """
import sys
from importlib.util import find_spec

missing = sys.argv[1].split(",")
assert not [name for name in missing if find_spec(name)], "the environment has more than the core"

import torch
import lightning_losses.losses as losses

for loss in losses.loss_classes():
    pass
losses.KD()(torch.zeros(2, 3), torch.zeros(2, 3))

import lightning as L
from lightning_losses import CrossEntropy, DistillationMixin, KD, Objective
from lightning_losses.callbacks import Grokfast, History, OrthogonalGradient
from lightning_losses.calibrators import TemperatureScaling
from lightning_losses.metrics import ExpectedCalibrationError
from lightning_losses.modules import Distiller

batch = {"inputs": torch.randn(4, 2), "target": torch.tensor([0, 1, 2, 0])}
student = Distiller(torch.nn.Linear(2, 3), network=torch.nn.Linear(2, 3), num_classes=3,
                    objective=Objective({"ce": CrossEntropy(), "kd": KD()}))
trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False, callbacks=[History(), Grokfast()])
loader = torch.utils.data.DataLoader([batch], batch_size=None)
trainer.fit(student, loader, loader)
print("trained", trainer.global_step)


def monitor():
    from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor


def bar():
    from lightning_losses.callbacks import Progress


def teacher():
    from lightning_losses.teachers import timm_teacher

    timm_teacher("resnet18", num_classes=2)


def recipe():
    import lightning_losses.experiments.config.check_config


def images():
    from lightning_losses.data import MNIST5k

    MNIST5k(folder="cache").prepare_data()


def digits():
    from lightning_losses.data import Digits

    Digits().setup()


for need in (monitor, bar, teacher, recipe, images, digits):
    try:
        need()
    except (ImportError, ValueError) as error:
        print(f"{need.__name__}: {error}")
"""


@pytest.mark.slow
def test_the_core_alone_trains_and_says_which_extra_is_missing(wheel, binaries, tmp_path):
    programs = installed(wheel, tmp_path / "venv", like=binaries)
    (tmp_path / "core.py").write_text(CORE)
    absent = sorted({"hydra", "matplotlib", "mlxtend", "omegaconf", "rich", "sklearn", "timm", "torchvision", "wandb"})
    runs = [
        start([programs / "python", "core.py", ",".join(absent)], tmp_path),
        start([programs / "lightning-losses", "list"], tmp_path),
        start([programs / "lightning-losses", "train", "objective=kd"], tmp_path),
    ]
    (code, out, err), *commands = map(finish, runs)
    assert code == 0, err
    trained, *sentences = out.splitlines()[-7:]
    assert trained == "trained 1"
    assert dict(sentence.split(": ", 1) for sentence in sentences) == {
        "monitor": f"lightning_losses.plots: {advice('matplotlib')}",
        "bar": f"lightning_losses.callbacks.Progress: {advice('rich')}",
        "teacher": f"timm_teacher: {advice('timm')}",
        "recipe": f"lightning_losses.experiments: {advice('hydra')}",
        "images": sentences[4].split(": ", 1)[1],
        "digits": sentences[5].split(": ", 1)[1],
    }
    assert all("lightning-losses[data]" in sentence for sentence in sentences[4:])
    for name, (code, _, err) in zip(["list", "train"], commands, strict=True):
        assert code == 2 and err.count("\n") == 1, err
        assert re.match(rf"Error: lightning-losses {name}: \w+ is not installed; pip install 'lightning-losses\[", err)
