"""Continued pre-training on I1, the questions and contexts of the table `ideal` (KAILIN, Figure 4).

    python -m trainers.cpt --config cpt.toml

Texts longer than `max_length` are split over packs; without packing they are cut.
"""

import sys

from trainers.command import command
from trainers.config import Cpt
from trainers.result import Result


def train(config: Cpt) -> Result:
    """Run the job. Raises `DataError` and `JobError`."""
    # Here, because a wrong configuration is told before torch is loaded.
    from trainers import prepared, sft, training

    return training.train(
        config,
        "cpt",
        lambda: prepared.cpt(config),
        lambda parts: sft.sft_trainer(config, parts),
        packs=config.optimisation.packing,
    )


def main() -> int:
    return command(Cpt, train, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
