"""The engine of adaptation at test time: snapshot, step, reset, and the network as it was."""

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, field
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_losses.networks.calls import for_graphs, in_evaluation, logits_of
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.settings import Declared, NonNegative, Positive
from lightning_losses.parallel.processes import total_of_all, world_size
from lightning_losses.parallel.sharding import is_sharded, refuse_flat_parameters
from lightning_losses.test_time.normalisation import Statistics, batch_normalisation
from lightning_losses.test_time.takeover import in_place_of_forward, only_learning, with_gradients


class TestTimeMethod(Declared):
    """Base of the methods: settings alone, so that one serves several networks; what changes is kept by `Adaptation`.

    Args:
        lr: the learning rate.
        optimizer: makes the optimizer from parameters and ``lr``; Adam if None.
        include: shell-style patterns of the parameters that are adapted; None takes those of normalisation layers.
        exclude: patterns of parameters to leave alone.
    """

    # No test, though the name begins like one.
    __test__ = False

    _: KW_ONLY
    lr: Positive = 1e-3
    optimizer: Callable[..., Optimizer] | None = None
    include: Sequence[str] | None = None
    exclude: Sequence[str] = ()

    @abstractmethod
    def adapt(self, run: "Adaptation", inputs: Any) -> Float[Tensor, "*rows classes"]:
        """Take a step on a batch, and predict: the logits, which are those from before the step."""

    def prepare(self, run: "Adaptation") -> None:
        """Make what is kept over resets, into `run.fixed`, once."""

    def begin(self, run: "Adaptation") -> None:
        """Make what a reset makes anew, into `run.state`, at the start and at every reset."""

    @property
    def selection(self) -> tuple[str, Sequence[str] | None, Sequence[str]]:
        """Who adapts, and which parameters."""
        return self.name, self.include, self.exclude

    def make_optimizer(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        """The optimizer of the adapted parameters."""
        make: Callable[..., Optimizer] = self.optimizer or torch.optim.Adam
        return make(parameters, lr=self.lr)


class Adaptation(Declared):
    """Within this context a network adapts to every batch that it is called with, and returns logits.

    ``with Adaptation(network, Tent()): logits = network(inputs)``. It works under ``torch.inference_mode`` and
    ``torch.no_grad``, too. A call takes one step at most, on what the method selects; the logits are those from before
    it, and carry no gradient. The network is called in evaluation mode, so that dropout is off, and only the layers of
    batch normalisation go by other statistics. Parameters that the method does not name, their gradients, running
    statistics and modes stay as they are. When the context ends, the network is as before, to the bit.

    On several processes a step is that of one process with the whole batch: sums run over all processes, statistics of
    batch normalisation too, and all processes must call the network equally often.

    Args:
        network: the network; its logits are what `logits_of` reads, classes last.
        method: what a step does; None changes the statistics of batch normalisation alone.
        episodic: whether every batch begins from the snapshot.
        statistics: of batch normalisation: "batch", those of the batch; "source", those of training; "mixed", both.
        source_samples: how many samples those of training count for where statistics are mixed, at least 0.
        rank_local: whether every process adapts by itself, so that the networks of processes become different.

    Attributes:
        adapted: the parameters that the method changes, by name.
        state, fixed: tensors that the method keeps: until a reset, and over resets.
        given: the arguments of the present call.

    Raises:
        ValueError: no normalisation layer, and no parameters named instead; patterns that match nothing; a network that
            is sharded; weights in float16; batches of a single value per channel under "batch".

    Source:
        Statistics of the batch: Nado et al., 2020, "Evaluating Prediction-Time Batch Normalization for Robustness under
        Covariate Shift", arXiv:2006.10963; mixed: Schneider et al., 2020, "Improving robustness against common
        corruptions by covariate shift adaptation", arXiv:2006.16971.

    Example:
        >>> from lightning_losses.test_time import Tent
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        >>> with Adaptation(network, Tent(lr=0.1)) as run:
        ...     logits, moved = network(torch.randn(4, 2)), network[1].weight.clone()
        >>> list(run.adapted), bool((moved != 1).all()), network[1].weight.tolist()
        (['1.weight', '1.bias'], True, [1.0, 1.0, 1.0])
    """

    name = "test_time"

    network: nn.Module
    method: TestTimeMethod | None = None
    _: KW_ONLY
    episodic: bool = False
    statistics: Statistics = "batch"
    source_samples: NonNegative = 16.0
    rank_local: bool = False
    adapted: dict[str, nn.Parameter] = field(init=False, default_factory=dict)
    state: dict[str, Tensor] = field(init=False, default_factory=dict)
    fixed: dict[str, Tensor] = field(init=False, default_factory=dict)
    _held: ExitStack | None = field(init=False, default=None)
    _within: bool = field(init=False, default=False)
    _optimizer: Optimizer | None = field(init=False, default=None)
    _snapshot: list[tuple[Tensor, Tensor]] = field(init=False, default_factory=list)
    _call: Callable[..., Any] = field(init=False)
    given: tuple[tuple[Any, ...], dict[str, Any]] = field(init=False, default_factory=lambda: ((), {}))

    def __enter__(self) -> Self:
        if self._held is not None:
            raise ValueError("test_time: this adaptation has begun; leave its context before it begins again.")
        if isinstance(self.network, nn.parallel.DistributedDataParallel):
            raise ValueError("test_time: a DistributedDataParallel came; give the network within it, its .module.")
        if is_sharded(self.network):
            raise ValueError("test_time: a network of sharded parameters came; adapt a whole one on each process.")
        refuse_flat_parameters("test_time", self.network.modules())
        with ExitStack() as held, with_gradients():
            name, include, exclude = ("test_time", (), ()) if self.method is None else self.method.selection
            self.adapted = held.enter_context(only_learning(name, self.network, include, exclude))
            if any(parameter.dtype == torch.float16 for parameter in self.adapted.values()):
                raise ValueError(
                    f"{name}: weights in float16 came to be adapted, where small gradients and Adam's epsilon vanish; "
                    "give the network in bfloat16 or float32."
                )
            changing = [*self.adapted.values(), *self.network.buffers()]
            self._snapshot = [(tensor, tensor.detach().clone()) for tensor in changing]
            held.callback(self._put_back)
            shared = not self.rank_local
            statistics = batch_normalisation(self.network, self.statistics, self.source_samples, shared)
            held.enter_context(statistics)
            self._call = held.enter_context(in_place_of_forward(self.network, self._forward))
            self.state, self.fixed, self._within = {}, {}, True
            try:
                with in_evaluation(self.network):
                    if self.method is not None:
                        self.method.prepare(self)
                    self._begin()
            finally:
                self._within = False
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def reset(self) -> None:
        """Go back to the snapshot, with a new optimizer and what the method begins with."""
        with with_gradients():
            self._put_back()
            self._begin()

    def learn(self, name: str, parameter: nn.Parameter) -> None:
        """Have the optimizer change a further parameter, of the method's own; to be called while it prepares."""
        self.adapted[name] = parameter
        self._snapshot.append((parameter, parameter.detach().clone()))

    def keep(self) -> None:
        """Take the weights as they are now for the snapshot: resets, and the end, go back to these."""
        self._snapshot = [(tensor, tensor.detach().clone()) for tensor, _ in self._snapshot]

    def logits(self, *inputs: Any) -> Float[Tensor, "*rows classes"]:
        """The network's logits of the present batch, or of inputs from any device in the place of its first ones."""
        device = next((parameter.device for parameter in self.network.parameters()), None)
        inputs = tuple(each.to(device) if isinstance(each, Tensor) else each for each in inputs)
        given, named = self.given if not inputs else ((*inputs, *self.given[0][len(inputs) :]), self.given[1])
        return logits_of("test_time: the network", self.network(*given, **named))

    def step(
        self, values: Float[Tensor, " rows"], kept: Bool[Tensor, " rows"] | None = None, penalty: Tensor | None = None
    ) -> bool:
        """Minimise the mean value of the kept rows, and a penalty; see `gradients`. Whether there was a step."""
        gradients, _ = self.gradients(values, kept, penalty)
        if gradients is not None:
            self.apply(gradients)
        return gradients is not None

    def gradients(
        self, values: Float[Tensor, " rows"], kept: Bool[Tensor, " rows"] | None = None, penalty: Tensor | None = None
    ) -> tuple[list[Tensor] | None, float]:
        """The gradients of the adapted parameters, and the mean of the kept rows' values over all processes.

        Rows whose value is not finite are not kept. Without a kept row, or with gradients that are not finite, there
        are None: processes agree on it. No gradient hook runs, such as those of DDP.

        Args:
            values: a value of each row, with its graph.
            kept: which rows count; None is all.
            penalty: a scalar that is added, the same on every process.
        """
        finite = values.detach().isfinite()
        kept = finite if kept is None else kept & finite
        count = self.total(kept.sum())
        if not count:
            return None, math.nan
        mean = torch.where(kept, values, 0.0).sum() / count
        processes = 1 if self.rank_local else world_size()
        objective = mean if penalty is None else mean + penalty / processes
        gradients = torch.autograd.grad(
            objective, list(self.adapted.values()), allow_unused=True, materialize_grads=True
        )
        whole = self.total(torch.cat([mean.detach().view(1), *(gradient.flatten().to(mean) for gradient in gradients)]))
        if not whole.isfinite().all():
            warnings.warn("test_time: gradients that are not finite came; this batch is left out.", stacklevel=2)
            return None, math.nan
        parts = torch.split(whole[1:], [gradient.numel() for gradient in gradients])
        return [part.view_as(like).to(like) for part, like in zip(parts, gradients, strict=True)], whole[0].item()

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """Take the optimizer's step by these gradients; those that parameters had stay."""
        assert self._optimizer is not None
        before = [parameter.grad for parameter in self.adapted.values()]
        for parameter, gradient in zip(self.adapted.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        for parameter, former in zip(self.adapted.values(), before, strict=True):
            parameter.grad = former
        self.changed()

    def changed(self) -> None:
        """To be called after weights were changed in place: autocast keeps copies of them in half precision."""
        torch.clear_autocast_cache()

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes that adapt together, without gradient."""
        return values if self.rank_local else total_of_all(values)

    def state_dict(self) -> dict[str, Any]:
        """The adapted weights, the optimizer's state and the method's, to go on with the stream later."""
        return {
            "adapted": {name: parameter.detach().clone() for name, parameter in self.adapted.items()},
            # The optimizer's own holds its moments themselves, which further steps change.
            "optimizer": None if self._optimizer is None else copy.deepcopy(self._optimizer.state_dict()),
            "state": {name: tensor.clone() for name, tensor in self.state.items()},
            "fixed": {name: tensor.clone() for name, tensor in self.fixed.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, within the context; resets still go back to the snapshot."""
        if set(state["adapted"]) != set(self.adapted):
            raise ValueError(
                f"test_time: a state of {', '.join(state['adapted']) or 'no parameters'} came; this adaptation is of "
                f"{', '.join(self.adapted) or 'none'}."
            )
        with with_gradients(), torch.no_grad():
            for name, parameter in self.adapted.items():
                parameter.copy_(state["adapted"][name])
            if self._optimizer is not None:
                self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
            device = next((parameter.device for parameter in self.adapted.values()), torch.device("cpu"))
            for kept, of_state in ((self.state, state["state"]), (self.fixed, state["fixed"])):
                kept.clear()
                for name, tensor in of_state.items():
                    # Counts stay on the host, where they are read.
                    kept[name] = tensor.to(device if tensor.is_floating_point() else torch.device("cpu"), copy=True)
            self.changed()

    @torch.no_grad()
    def _put_back(self) -> None:
        for tensor, before in self._snapshot:
            tensor.copy_(before)
        self.changed()

    def _begin(self) -> None:
        self.state.clear()
        if self.method is not None:
            self._optimizer = self.method.make_optimizer(list(self.adapted.values()))
            self.method.begin(self)

    def _forward(self, *given: Any, **named: Any) -> Any:
        if self._within:
            return self._call(*given, **named)
        with with_gradients(), in_evaluation(self.network):
            if self.episodic and self.method is not None:
                self._put_back()
                self._begin()
            self.given = tuple(map(for_graphs, given)), {name: for_graphs(value) for name, value in named.items()}
            self._within = True
            try:
                if self.method is None:
                    with torch.no_grad():
                        return self.logits()
                return self.method.adapt(self, next(iter(self.given[0]), None)).detach()
            finally:
                self._within = False
                self.given = (), {}


def row_entropy(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, " rows"]:
    """The entropy of every row's prediction, in nats."""
    return entropy(log_probabilities(full_precision(logits))).flatten()
