"""What a look into the annotations of a data set finds. Read next: dataset_base.py, scan.py."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """errors stop a training, warnings are worth a line in the log, facts are for `check`."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
