"""A question generator (θ1, θ2) from a base model, on BioASQ task B with Prompt 1.

    python -m trainers.sft_generators --config sft-generators.toml

Title and context in, question out; the loss is on the question only.
"""

import sys

from trainers.command import command
from trainers.config import SftGenerators
from trainers.result import Result


def train(config: SftGenerators) -> Result:
    """Run the job. Raises `DataError` and `JobError`."""
    # Here, because a wrong configuration is told before torch is loaded.
    from trainers import prepared, sft, training

    return training.train(
        config,
        "sft-generators",
        lambda: prepared.sft_generators(config),
        lambda parts: sft.sft_trainer(config, parts),
        packs=config.optimisation.packing,
    )


def main() -> int:
    return command(SftGenerators, train, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
