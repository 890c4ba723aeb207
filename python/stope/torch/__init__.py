"""The contrastive losses for torch: functions with autograd, modules, GradCache, many processes.

Needs torch. ``stope.torch.grad_cache`` and ``stope.torch.distributed`` are imported by name.
"""

from stope._extras import need

need("torch", extra="train")  # a sentence where it is missing, before the imports below need it

from stope.torch._operators import Statistics  # noqa: E402
from stope.torch.functional import infonce  # noqa: E402
from stope.torch.losses import InfoNCELoss, SigmoidLoss  # noqa: E402

__all__ = ["InfoNCELoss", "SigmoidLoss", "Statistics", "infonce"]
