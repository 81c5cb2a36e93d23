"""What a run is called where runs are compared: name, group, kind of job and tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The most letters that W&B takes in a tag.
LONGEST_TAG = 64


@dataclass(frozen=True)
class RunIdentity:
    """Name, group, kind and tags of a run.

    Args:
        name: name of the run; of a job of a sweep, its overrides.
        group: name of the experiment, which all jobs of a sweep share.
        job_type: task of the run.
        tags: words as `key=value`, such as `generator=cifar10`.

    Example:
        >>> RunIdentity("atol=0.1", "cifar10_ode", "control", ("method=ODE",)).options("WandbLogger", {"name": "mine"})
        {'group': 'cifar10_ode', 'job_type': 'control', 'tags': ['method=ODE']}
    """

    name: str
    group: str
    job_type: str
    tags: tuple[str, ...] = ()

    def options(self, kind: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a logger that carry the identity.

        Args:
            kind: name of the logger's class.
            given: arguments of the configuration; those that are not null stay as they are.

        Returns:
            Arguments by name, none for a logger without runs of names.
        """
        tags = [tag[:LONGEST_TAG] for tag in self.tags]
        if kind == "WandbLogger":
            known: dict[str, Any] = {"name": self.name, "group": self.group, "job_type": self.job_type, "tags": tags}
        elif kind == "MLFlowLogger":
            words = {"group": self.group, "job_type": self.job_type}
            known = {
                "experiment_name": self.group,
                "run_name": self.name,
                "tags": words | dict(tag.partition("=")[::2] for tag in tags),
            }
        else:
            known = {}
        return {name: value for name, value in known.items() if given.get(name) is None}
