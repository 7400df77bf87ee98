"""Audits a language model: how well scores of membership tell its training text from text of the same kind."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data.forget_text import FilesDataset, ForgetText
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.text_records import nats, text_record, token_counts
from lightning_losses.experiments.training.training import Training, training_of
from lightning_losses.metrics.membership_inference import MembershipAudit, membership_inference
from lightning_losses.metrics.membership_scores import (
    dc_pdd_score,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    token_frequencies,
    zlib_score,
)
from lightning_losses.plots.seed_intervals import seed_intervals

COLUMNS = ("score", "AUROC %", "AUROC % by file", "found at the rate, %", "balanced accuracy, %")
_NAMES = {
    "loss": "loss",
    "zlib": "loss over zlib",
    "min_k": "Min-K%",
    "min_k_plus_plus": "Min-K%++",
    "reference": "reference ratio",
    "dc_pdd": "DC-PDD",
}
Audits = dict[str, tuple[MembershipAudit, MembershipAudit]]


class Audit(Experiment):
    """A language model, a reference that never saw half a package, and every score of the package's blocks."""

    def language_model(self, content: str) -> Training:
        """The training of the model on all text, or of the reference on what is retained."""
        plain: Any = OmegaConf.to_container(self.config.data, resolve=True)
        return training_of(
            self.config,
            "model" if content == "all" else "reference",
            self.config.audit.language_model,
            data=OmegaConf.create({**plain, "content": content}),
            shows_inputs=False,
        )

    def rehearse(self) -> None:
        """Take a step."""
        self.language_model("all").rehearse(self.resumed)

    def perform(self, folder: Path) -> Audits | None:
        """Train, score and report; what each score shows, by block and by file. None in further processes."""
        started, resume = time.perf_counter(), self.config.resume is not None
        kept = KeptNetworks(self.config.cache or cache_folder() / "networks")
        training = self.language_model("all")
        model = training.run_once(kept, folder / "checkpoints", resume=resume)
        reference = self.language_model("retained").run_once(kept, folder / "checkpoints", resume=resume)
        if not first_process():
            return None
        data: Any = training.datamodule
        settings = self.config.audit
        audits = membership_audits(model.network, reference.network, data, settings.share, settings.clip, settings.fpr)
        taken = time.perf_counter() - started
        page = self._page(audits, model.network, data, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return audits

    def _page(self, audits: Audits, network: nn.Module, data: ForgetText, taken: float) -> Page:
        rows = [
            [_NAMES[name], *(f"{100 * float(value):.2f}" for value in (blocks.auroc, files.auroc, *blocks[1:]))]
            for name, (blocks, files) in audits.items()
        ]
        parts = (data.forget, data.unseen)
        losses = [nats(text_record(network, part)) for part in parts]
        files = [int(part.file.max()) + 1 for part in parts]
        note = (
            f"{len(data.forget):,} blocks of {data.block_length} bytes of {data.package} that the model was trained on "
            f"({losses[0]:.3f} nats per byte) against {len(data.unseen):,} of other files of {data.package} "
            f"({losses[1]:.3f}); by file the scores of a file's blocks are averaged, of {files[0]} files against "
            f"{files[1]}. Found at the rate: the share of training blocks above a threshold that "
            f"{100 * self.config.audit.fpr:g} % of the others pass. The ratio is to a model that never "
            "saw the blocks. One seed; an AUROC of 50 % tells nothing."
        )
        nothing = float("nan")
        panels: dict[str, dict[str, Any]] = {
            "AUROC (%)": {
                _NAMES[name]: [(100 * float(each.auroc), nothing, nothing) for each in both]
                for name, both in audits.items()
            }
        }
        return Page(
            title=f"Membership in {data.name}, seed {self.config.seed}",
            command=self.command,
            body=[Table(COLUMNS, rows), note, "![membership](membership.png)"],
            said=[note],
            numbers={
                "seconds": taken,
                "fingerprint": data.fingerprint(),
                "audits": {name: {"blocks": _plain(one), "files": _plain(by)} for name, (one, by) in audits.items()},
            },
            settings=plain_settings(self.config),
            figures={"membership.png": lambda: seed_intervals(panels, stages=["blocks", "files"])},
        )


def membership_audits(
    network: nn.Module, reference: nn.Module, data: ForgetText, share: float, clip: float, fpr: float
) -> Audits:
    """What each score shows of the text to forget against unseen text of its package, by block and by file."""
    frequencies = token_frequencies(token_counts(data.val, data.vocabulary_size))
    scores = [_scores(network, reference, part, frequencies, share, clip) for part in (data.forget, data.unseen)]
    members = torch.arange(len(data.forget) + len(data.unseen)) < len(data.forget)
    files = torch.cat([data.forget.file, data.unseen.file + len(data.forget.file)])
    audits: Audits = {}
    for name in _NAMES:
        both = torch.cat([of_part[name] for of_part in scores])
        audits[name] = (
            membership_inference(both, members, fpr=fpr),
            membership_inference(both, members, files, fpr=fpr),
        )
    return audits


def _scores(
    network: nn.Module,
    reference: nn.Module,
    part: FilesDataset,
    frequencies: Float[Tensor, " vocabulary"],
    share: float,
    clip: float,
) -> Mapping[str, Float[Tensor, " blocks"]]:
    record = text_record(network, part, entropies=True, variances=True)
    assert record.entropies is not None and record.variances is not None
    logps, kept, target = record.logps, record.kept, part.target.long()
    texts = [bytes(row.tolist()) for row in part.target]
    return {
        "loss": loss_score(logps, kept),
        "zlib": zlib_score(logps, texts, kept),
        "min_k": min_k_score(logps, kept, share),
        "min_k_plus_plus": min_k_plus_plus_score(logps, record.entropies, record.variances, kept, share),
        "reference": reference_score(logps, text_record(reference, part).logps, kept),
        "dc_pdd": dc_pdd_score(logps, target, frequencies, kept, clip),
    }


def _plain(audit: MembershipAudit) -> dict[str, float]:
    return {name: float(value) for name, value in audit._asdict().items()}
