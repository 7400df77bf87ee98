"""Every command and every example of the README and the pages runs, or says why it does not."""

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from lightning_losses.catalogue import command_line as cli
from lightning_losses.catalogue.losses import catalogue
from lightning_losses.catalogue.needs import NEEDS
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import SETTINGS
from lightning_losses.experiments.launch import experiment_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+?) -->\n)?```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = ("python ", "lightning-losses ", "make ", "pip ", "wandb ", "torchrun ", "srun ", "sbatch ")
RECIPES = [path.stem for path in (ROOT / "recipes").glob("[!_]*.py")]

# Homes of other people's projects, whose examples are run from an installed wheel by the tests of packaging.
HOMES = ("feature_distillation.md", "hugging_face.md", "lightning_cli.md")
# The same run, shorter. A command's own overrides of these are dropped.
SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "logger=none"]
# What has been run in this process.
DONE = set()
SMALL_TEXT = ["data.max_bytes=60000", "data.block_length=32", "data.batch_size=4"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str
    reason: str | None


def blocks():
    return [
        Block(page.name, language, text, reason or None)
        for page in PAGES
        for reason, language, text in BLOCK.findall(page.read_text())
    ]


def examples(page):
    """The blocks of Python of a page that run."""
    return [code for reason, language, code in BLOCK.findall(page.read_text()) if language == "python" and not reason]


def commands(*, of_blocks_that_run=True):
    """The commands of the bash blocks, each once, with the first page that has it."""
    found = {}
    for block in blocks():
        if block.language == "bash" and (block.reason is None) == of_blocks_that_run:
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    found.setdefault(line, block.page)
    return [pytest.param(line, id=f"{page}-{line.partition('#')[0].strip()}") for line, page in found.items()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_what_they_say(page):
    text = page.read_text()
    assert text.count("\n```") == 2 * len(BLOCK.findall(text)), "a block isn't closed, or is indented"
    for reason, language, code in BLOCK.findall(text):
        assert language in ("bash", "python", "yaml", "toml", "text", "")
        if language not in ("bash", "python"):
            assert not any(line.startswith(PROGRAMS) for line in code.splitlines()), "a command in a block without name"
        assert not reason or len(reason.split()) >= 3, f"{reason!r} is no reason"
    # A reason belongs to the block below it.
    assert text.count("<!-- not run:") == sum(bool(reason) for reason, _, _ in BLOCK.findall(text))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python" in page.read_text() and page.name not in HOMES],
    ids=lambda page: page.name,
)
def test_its_examples_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A command line of the page's own is none of the tests'.
    monkeypatch.setattr(sys, "argv", [page.name])
    names = {"__name__": page.stem}
    for code in examples(page):
        exec(compile(code, page.name, "exec"), names)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages' commands read: logits and targets, and one cache for all of them."""
    folder = tmp_path_factory.mktemp("docs")
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(300, 4))
    target = (logits / 2 + generator.gumbel(size=logits.shape)).argmax(axis=1)
    np.savez(folder / "validation.npz", logits=logits, target=target)
    for name in ("validation.csv", "test.csv"):
        header = ",".join([*(f"logit_{k}" for k in range(4)), "target"])
        np.savetxt(folder / name, np.column_stack([logits, target]), delimiter=",", header=header, comments="")
    (folder / "conf").symlink_to(ROOT / "conf")
    return folder


def shortened(program, overrides):
    """The overrides of a short run of the same."""
    if program == "calibrate":
        return [*overrides, "resamples=5"]
    if program == "sweep":
        overrides = ["count=1" if word.startswith("count=") else word for word in overrides]
    if program == "compare":
        overrides = ["seeds=2" if word.startswith("seeds=") else word for word in overrides]
        if not any(word.startswith("objectives=") for word in overrides):
            # Two of a comparison's; its test takes a step of all.
            (name,) = (word.partition("=")[2] for word in overrides if word.startswith("comparison="))
            listed = OmegaConf.load(ROOT / "conf" / "comparison" / f"{name}.yaml").objectives
            overrides = [*overrides, f"objectives=[{','.join(listed[:2])}]"]
        overrides = [re.sub(r"^objectives=\[(\w+,\w+).*\]$", r"objectives=[\1]", word) for word in overrides]
    chosen = dict(word.split("=", 1) for word in overrides if "=" in word)
    short = [*SHORT]
    experiment = chosen.get("experiment", "distill")
    if "language_model" in experiment:
        short += [*SMALL_TEXT, "model.width=16", "model.depth=1"]
        short += ["teacher.width=24", "teacher.depth=1"] if "distill" in experiment else []
    elif experiment == "decode":
        short += [*SMALL_TEXT, "model.width=16", "model.depth=1", "decode.datastore_blocks=20", "decode.test_blocks=4"]
        short += ["decode.sequences=3", "decode.prompt_length=8", "decode.new_tokens=6", "decode.neighbours=8"]
    elif experiment in ("contrastive", "contrastive_images", "moving_target"):
        short += ["data=digits", "model=small_cnn", "contrastive.seeds=[0]"]
        short += ["modules.student.augmentation=${contrastive.views.image}"]
    elif experiment == "sparse_autoencoder":
        short += ["data=digits", "model=small_cnn", "sparse_codes.seeds=[0]", "sparse_codes.epochs=1"]
    elif "data" not in chosen and "overlap" not in chosen.get("comparison", ""):
        short += ["data=digits"]
    if "-m" in overrides:
        # Two jobs of a sweep.
        overrides = [word.split(",")[0] if word.startswith("seed=") else word for word in overrides]
        overrides = [",".join(word.split(",")[:2]) if word.startswith("objective=") else word for word in overrides]
    if "comparison" in chosen:
        short += ["objectives=[ce,mixup]", "seeds=1"]
    own = {word.split("=")[0].lstrip("+~") for word in short if not word.startswith("~")}
    own.discard("data")
    kept_words = [word for word in overrides if word.split("=")[0] not in own and word not in short]
    return [*kept_words, *short]


def perform(command, monkeypatch, number, done):
    """Run a command's main function in this process; its exit code, and what it printed."""
    words = shlex.split(command, comments=True)
    program, arguments = (Path(words[1]).stem, words[2:]) if words[0] == "python" else (words[1], words[2:])
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        main = importlib.import_module(f"lightning_losses.recipes.{program}").main
    else:
        assert words[0] == "lightning-losses"
        main = cli.main
    asks = {"--help", "--cfg"} & set(arguments)
    if program in RECIPES and not asks:
        arguments = shortened(program, arguments)
        # Another page's command may differ in nothing but what was shortened, or in saying a default.
        same = (words[0], program, *sorted(set(arguments) - {"experiment=distill"}))
        if same in done:
            return 0, ""
        # All comparisons are of one kind.
        (kind,) = [word for word in same[2:] if word.startswith("experiment=") and program == "train"] or [""]
        if (program, kind) in done and "-m" not in arguments and "# fails" not in command:
            # Another run of the same kind: its words are checked, and it takes a step if it sets something new.
            keys = frozenset(word.partition("=")[0] for word in same[2:])
            for config in check_overrides(program, arguments, SETTINGS[program]):
                if (program, kind, keys) not in done:
                    experiment_of(config).rehearse()
            done.add((program, kind, keys))
            return 0, ""
        done.add((program, kind))
        if len(done) > 1:
            # Drawing is half of so short a run: the first one's figures, and those of the tests of plots, are enough.
            monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).touch())
        done.add(same)
        arguments += [f"hydra.sweep.dir=sweep{number}" if "-m" in arguments else f"hydra.run.dir=run{number}"]
    monkeypatch.setattr(
        sys, "argv", [words[0], *arguments] if main is not cli.main else [words[0], program, *arguments]
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        # Networks of two steps know nothing: their best temperature lies at the range's end.
        warnings.filterwarnings("ignore", message="TemperatureScaling: the best temperature lies outside")
        try:
            main()
            code = 0
        except SystemExit as exit:
            code = exit.code or 0
    return code, printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_its_commands_run(command, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("LIGHTNING_LOSSES_CACHE", str(workplace / "cache"))
    code, printed = perform(command, monkeypatch, number=len(list(workplace.iterdir())), done=DONE)
    expected = re.search(r"# fails: (.+)$", command)
    if expected:
        assert code == 2 and expected[1] in printed
    else:
        assert code == 0, printed


def inline():
    """Commands within the text, without those that leave something open."""
    found = {
        command: page.name
        for page in [*PAGES, ROOT / "RESULTS.md", *RESULTS]
        for command in re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))
        if command.startswith(PROGRAMS) and not re.search(r"\.\.\.|<|FOLDER|FILE", command)
    }
    return [pytest.param(command, id=f"{page}-{command}") for command, page in found.items()]


@pytest.mark.parametrize("command", [*inline(), *commands(of_blocks_that_run=False)])
def test_what_is_not_run_names_what_there_is(command):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"(?m)^{word}:", makefile) for word in words[1:] if "=" not in word)
    elif words[:2] == ["python", "-m"]:
        module = ROOT / words[2].replace(".", "/")
        assert words[2] == "pytest" or (module / "__main__.py").is_file() or module.with_suffix(".py").is_file()
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
    elif words[0] == "python" and (ROOT / "docs" / "template" / words[1]).is_file():
        # The application to begin from has a test of its own.
        return
    elif words[0] in ("python", "lightning-losses", "wandb", "torchrun"):
        name = Path(words[1]).stem
        assert words[0] != "python" or (ROOT / words[1]).is_file()
        assert all((ROOT / word).is_file() for word in words if word.startswith(("conf/", "benchmarks/")))
        overrides = [word for word in words[2:] if word != "-m" and not word.startswith("resume=")]
        if name in SETTINGS and not {"--help", "--cfg"} & set(words):
            assert check_overrides(name, overrides, SETTINGS[name], multirun="-m" in words)


@pytest.mark.slow
def test_the_pages_build_strictly_and_fetch_nothing(tmp_path):
    # Without ruff: it would be started for each of a thousand signatures, to break their lines. Without the search's
    # index, which takes a fifth of the time.
    program = (
        "import sys; sys.modules['ruff'] = None; from material.plugins.search.plugin import SearchPlugin; "
        "SearchPlugin.on_page_context = lambda *_, **__: None; from mkdocs.__main__ import cli; cli()"
    )
    build = subprocess.run(
        [sys.executable, "-c", program, "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert build.returncode == 0 and "WARNING" not in build.stderr, build.stdout + build.stderr
    written = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in [*PAGES[1:], *RESULTS]]
    assert {*pages, "catalogue.html", "results.html"} <= written.keys() and RESULTS
    for name, page in written.items():
        # Links may lead away; what a page loads may not.
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=[\"']?([^\"' >]+)", page)
        loaded += re.findall(r"<link[^>]* href=[\"']?([^\"' >]+)", page)
        assert not [address for address in loaded if address.startswith(("http:", "https:", "//"))], name
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()[\s\"']*(?:https?:)?//", sheet.read_text()), sheet.name
    for entry in catalogue():
        assert f"<code>{entry.id}</code>" in written["catalogue.html"]
        page = written[f"api/losses/{entry.id}.html"]
        assert f'id="{entry.module}.{entry.name}"' in page and 'class="formula"' in page
        assert "vendor/katex/katex.min.js" in page
    for need in NEEDS:
        assert need.sentence in written["catalogue.html"]
    # Every picture that a page shows is in the site.
    for name, page in written.items():
        for address in re.findall(r"<img[^>]* src=[\"']?([^\"' >]+)", page):
            assert (tmp_path / name).parent.joinpath(address).resolve().is_file(), (name, address)
    assert "FILL IN" not in written["catalogue.html"] and not list(tmp_path.glob("*.py"))


def test_a_broken_page_is_noticed():
    assert BLOCK.findall("```bash\npython x.py\n```\n") == [("", "bash", "python x.py\n")]
    assert BLOCK.findall("<!-- not run: no card here -->\n```python\nx\n```\n") == [("no card here", "python", "x\n")]
    assert shortened("train", ["objective=kd", "trainer.max_epochs=90"]) == ["objective=kd", *SHORT, "data=digits"]
    assert torch.get_num_threads() == 1
