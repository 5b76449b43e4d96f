"""θ1 with P to θ3: direct preference optimisation on the table `preferences` (KAILIN, section 2).

    python -m trainers.dpo --config dpo.toml

The reference is what the job begins with: the model, or the model with the adapter it goes on from.
"""

import sys

from trainers.command import command
from trainers.config import Dpo
from trainers.result import Result


def train(config: Dpo) -> Result:
    """Run the job. Raises `DataError` and `JobError`."""
    # Here, because a wrong configuration is told before torch is loaded.
    from trl import DPOConfig, DPOTrainer

    from trainers import prepared, training

    def trainer(parts: training.Parts) -> DPOTrainer:
        return DPOTrainer(args=DPOConfig(beta=config.beta, **parts.arguments), **parts.common())

    return training.train(config, "dpo", lambda: prepared.dpo(config), trainer)


def main() -> int:
    return command(Dpo, train, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
