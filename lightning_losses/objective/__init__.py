"""The weighted sum of losses that a step minimises."""

from lightning_losses.objective.balanced_backward import balanced_backward as balanced_backward
from lightning_losses.objective.criterion import Criterion as Criterion
from lightning_losses.objective.objective import Objective as Objective
from lightning_losses.objective.objective import ObjectiveValue as ObjectiveValue
from lightning_losses.objective.schedules import Constant as Constant
from lightning_losses.objective.schedules import Cosine as Cosine
from lightning_losses.objective.schedules import Linear as Linear
from lightning_losses.objective.schedules import Schedule as Schedule
from lightning_losses.objective.schedules import Switch as Switch
from lightning_losses.objective.schedules import WarmUp as WarmUp
from lightning_losses.objective.term import Term as Term
