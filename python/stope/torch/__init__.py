"""The contrastive losses for torch: functions with autograd, modules, GradCache, many processes.

Needs torch. ``stope.torch.grad_cache`` and ``stope.torch.distributed`` are imported by name.
"""

from stope.torch._operators import Statistics
from stope.torch.functional import infonce
from stope.torch.losses import InfoNCELoss, SigmoidLoss

__all__ = ["InfoNCELoss", "SigmoidLoss", "Statistics", "infonce"]
